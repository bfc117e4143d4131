//! Where the project's own programs are: beside the one that runs.

use std::path::{Path, PathBuf};

/// A program of this project that is not where it should be.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not in {}: build it with \"cargo build --workspace\"", folder.display())]
pub struct NotBuilt {
    /// The program.
    pub name: String,
    /// Where it was looked for.
    pub folder: PathBuf,
}

/// The folder of the project's programs: that of the running one; a test's is one below.
///
/// # Errors
/// When the running program's own place cannot be read.
pub fn folder() -> std::io::Result<PathBuf> {
    let running = std::env::current_exe()?;
    let folder = running.parent().unwrap_or(Path::new("/"));
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}

/// The path of a program.
///
/// # Errors
/// When it is not there.
pub fn find(folder: &Path, name: &str) -> Result<PathBuf, NotBuilt> {
    let path = folder.join(name);
    if path.is_file() { Ok(path) } else { Err(NotBuilt { name: name.to_owned(), folder: folder.to_owned() }) }
}
