//! What is said to whoever reads standard output.

use std::fmt::Display;
use std::io::{self, Write};

/// Says a line. A reader who has gone (`head`, a closed terminal) has seen enough: that is no reason to leave what
/// is being done half-way.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
