//! The end of a lab, however it was left.

use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Lab, LabError, exists, folder};
use crate::netns;
use crate::topology::is_name;

/// How long a lock may be held by somebody who is about to let it go, or to die.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Removes a lab and all it made: processes, namespaces, links, files. It is found by its name alone,
/// so it does not matter how far `up` came or whether its files are still there.
///
/// # Errors
/// When there is none of that name, it is still being built, or something cannot be removed.
pub fn destroy(name: &str) -> Result<(), LabError> {
    super::up::root()?;
    if !is_name(name) {
        return Err(LabError::BadName { name: name.to_owned() });
    }
    if !exists(name) {
        return Err(LabError::NotFound { name: name.to_owned(), there_are: Lab::names() });
    }
    let failed = |source| LabError::Down { name: name.to_owned(), source };
    if let Lock::Busy = lock(&folder(name).join("up.lock")).map_err(failed)? {
        return Err(LabError::Busy { name: name.to_owned() });
    }
    remove(name).map_err(failed)
}

/// As [`destroy`], by whoever is building the lab.
pub(super) fn remove(name: &str) -> io::Result<()> {
    let folder = folder(name);
    // Nobody is on the way in while this is held; those who come later find no namespace.
    let _entering = lock(&folder.join("enter.lock"))?;
    netns::destroy_lab(name)?;
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The last one puts out the light; it stays while other labs are there.
    let _ = fs::remove_dir(super::ROOT);
    Ok(())
}

/// What came of asking for a lock.
enum Lock {
    /// It is ours while the file is held.
    Taken(#[expect(dead_code, reason = "held, not read")] File),
    /// Somebody does not let go of it.
    Busy,
    /// There is no such file: nobody can hold it.
    Absent,
}

fn lock(path: &Path) -> io::Result<Lock> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::Absent),
        other => other?,
    };
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock::Taken(file)),
            Err(TryLockError::WouldBlock) if Instant::now() > end => return Ok(Lock::Busy),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

impl Lab {
    /// Removes it: see [`destroy`].
    ///
    /// # Errors
    /// As [`destroy`].
    pub fn down(&self) -> Result<(), LabError> {
        destroy(self.name())
    }

    /// Makes it end with the value, also when a test panics.
    pub fn temporary(self) -> TemporaryLab {
        TemporaryLab(self)
    }
}

/// A lab that is removed when this is dropped.
#[derive(Debug)]
pub struct TemporaryLab(Lab);

impl Deref for TemporaryLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for TemporaryLab {
    fn drop(&mut self) {
        match self.0.down() {
            // Gone already: somebody wanted to know how it went.
            Ok(()) | Err(LabError::NotFound { .. }) => {}
            Err(error) => tracing::error!(%error, "a temporary lab is left behind"),
        }
    }
}
