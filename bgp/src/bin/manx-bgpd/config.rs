//! The file: the socket's `Config` as TOML.

use std::path::Path;

use anyhow::{Context, anyhow};
use manx_bgp::api::Config;
use manx_bgp::speaker::config::check;

/// Reads and judges a file. Errors name the place, and what would be right.
pub fn read(file: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let config: Config = toml::from_str(&text).map_err(|error| anyhow!("{}: {error}", file.display()))?;
    check(&config).with_context(|| file.display().to_string())?;
    Ok(config)
}

/// What a good file says, on one line.
pub fn summary(file: &Path) -> anyhow::Result<String> {
    let config = read(file)?;
    Ok(format!(
        "{}: good: {} with identifier {}, peers: {}, networks: {}, listening on: {}",
        file.display(),
        config.asn,
        config.router_id,
        config.peers.len(),
        config.networks.len(),
        config.listen.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let file =
            std::env::temp_dir().join(format!("manx-bgpd-config-{}-{}", std::process::id(), text.len()));
        std::fs::write(&file, text).unwrap();
        let error = format!("{:#}", summary(&file).unwrap_err());
        std::fs::remove_file(&file).unwrap();
        error
    }

    #[test]
    fn errors_tell_the_line_the_column_and_what_would_be_right() {
        let told = error(
            "asn = 64512\nrouterId = \"10.0.0.1\"\n[[peers]]\naddress = \"10.0.0.2\"\nasn = 1\nholdTme = 9\n",
        );
        assert!(told.contains("line 6, column 1"), "{told}");
        assert!(told.contains("unknown field `holdTme`") && told.contains("`holdTime`"), "{told}");

        let told = error("asn = 64512\nrouterId = \"10.0.0.1\"\n[[networks]]\nprefix = \"10.0.0.5/24\"\n");
        assert!(told.contains("line 4, column 10"), "{told}");
        assert!(told.contains("did you mean 10.0.0.0/24?"), "{told}");

        let told = error("asn = 0\nrouterId = \"10.0.0.1\"\n");
        assert!(told.contains("asn is 0"), "{told}");
    }

    #[test]
    fn the_example_of_the_help_text_is_a_good_file() {
        let example = crate::AFTER_HELP.split("SIGNALS").next().unwrap().split_once('\n').unwrap().1;
        let config: Config = toml::from_str(example).unwrap();
        assert_eq!(check(&config), Ok(()));
        assert_eq!((config.peers.len(), config.networks.len()), (1, 1));
    }
}
