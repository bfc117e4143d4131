//! Writes the seeds of every target to `FOLDER/TARGET/`, where libFuzzer begins; the folder is `corpus` unless given.

use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let to = std::env::args_os().nth(1).map_or_else(|| root.join("corpus"), PathBuf::from);
    for (target, _) in manx_bgp_fuzz::TARGETS {
        let folder = to.join(target);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in manx_bgp_fuzz::seeds(target, &root.join("../tests/vectors"))?.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
