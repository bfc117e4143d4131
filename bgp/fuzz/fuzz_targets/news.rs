#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| manx_bgp_fuzz::news(data));
