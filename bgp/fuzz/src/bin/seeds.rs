//! Writes the seeds of every target to `corpus/TARGET/`, where libFuzzer begins.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (target, _) in manx_bgp_fuzz::TARGETS {
        let folder = root.join("corpus").join(target);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in manx_bgp_fuzz::seeds(target, &root.join("../tests/vectors"))?.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
