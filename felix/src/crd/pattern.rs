//! How communities and AS numbers are written, as patterns for the API server: what it takes, the agent can read.

use std::sync::LazyLock;

/// The well-known communities that have a name.
const NAMES: &str =
    "graceful-shutdown|llgr-stale|no-llgr|blackhole|no-export|no-advertise|no-export-subconfed|no-peer";

/// 0 to 65535.
const U16: &str = "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

/// 0 to 4294967295.
const U32: &str = "([0-9]{1,9}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}\
                   |42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])";

/// RFC 1997: `64512:100`, `no-export`.
pub static STANDARD: LazyLock<String> = LazyLock::new(|| format!("^({NAMES}|{U16}:{U16})$"));

/// Of any kind: these, and RFC 8092, `64512:1:2`.
pub static COMMUNITY: LazyLock<String> =
    LazyLock::new(|| format!("^({NAMES}|{U16}:{U16}|{U32}:{U32}:{U32})$"));

/// Of any kind, with `*` for any number.
pub static COMMUNITIES: LazyLock<String> = LazyLock::new(|| {
    let (short, long) = (format!(r"(\*|{U16})"), format!(r"(\*|{U32})"));
    format!("^({NAMES}|{short}:{short}|{long}:{long}:{long})$")
});

/// `65001`, `65100-65199`.
pub static AS_RANGE: LazyLock<String> = LazyLock::new(|| format!("^{U32}(-{U32})?$"));

#[cfg(test)]
mod tests {
    use manx_bgp::wire::Community;

    use super::*;

    #[test]
    fn every_community_with_a_name_is_known_by_it() {
        let named = (0xffff_0000..=u32::MAX).map(|number| Community(number).to_string());
        let named: Vec<String> = named.filter(|text| !text.contains(':')).collect();
        let mut known: Vec<&str> = NAMES.split('|').collect();
        known.sort_by_key(|name| name.parse::<Community>().unwrap().0);
        assert_eq!(named, known);
    }
}
