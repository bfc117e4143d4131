//! What the demo says: a line a check as it is done, and a table of all at the end.

use std::time::Instant;

use crate::terminal::say;

/// The checks done so far.
pub struct Report {
    started: Instant,
    checks: Vec<Check>,
}

struct Check {
    name: String,
    passed: usize,
    failures: Vec<String>,
    /// What was seen, for a reader who wants more than a tick.
    seen: String,
}

/// How many failures of one check are told one by one.
const FAILURES_TOLD: usize = 3;

impl Report {
    /// An empty report; the clock of [`Report::step`] starts now.
    pub fn new() -> Self {
        Self { started: Instant::now(), checks: Vec::new() }
    }

    /// Says what is about to be done.
    pub fn step(&self, what: &str) {
        say(format_args!("\n[{:5.1}s] {what}", self.started.elapsed().as_secs_f32()));
    }

    /// Records one check made of many outcomes, and says how it went.
    pub fn check(&mut self, name: &str, seen: impl Into<String>, outcomes: Vec<Result<(), String>>) {
        let passed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let failures = outcomes.into_iter().filter_map(Result::err).collect();
        let check = Check { name: name.to_owned(), passed, failures, seen: seen.into() };
        say(format_args!("    {} {} {} {}", check.mark(), check.name, check.count(), check.seen));
        for failure in check.failures.iter().take(FAILURES_TOLD) {
            say(format_args!("        {failure}"));
        }
        if check.failures.len() > FAILURES_TOLD {
            say(format_args!("        … and {} more", check.failures.len() - FAILURES_TOLD));
        }
        self.checks.push(check);
    }

    /// Prints all checks as a table. True when every one passed.
    pub fn conclude(&self) -> bool {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(["", "CHECK", "RESULT", "SEEN"]);
        for check in &self.checks {
            table.add_row([check.mark().to_owned(), check.name.clone(), check.count(), check.seen.clone()]);
        }
        say(format_args!("\n{table}"));
        let failed = self.checks.iter().filter(|check| !check.passed()).count();
        let total = self.checks.len();
        say(format_args!(
            "\n{} of {total} checks passed in {:.0} s",
            total - failed,
            self.started.elapsed().as_secs_f32()
        ));
        failed == 0
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

impl Check {
    /// A check that looked at nothing has not passed.
    fn passed(&self) -> bool {
        self.failures.is_empty() && self.passed > 0
    }

    fn mark(&self) -> &'static str {
        if self.passed() { "✓" } else { "✗" }
    }

    fn count(&self) -> String {
        format!("{}/{}", self.passed, self.passed + self.failures.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_passes_only_when_every_check_looked_at_something_and_nothing_failed() {
        let mut report = Report::new();
        report.check("two fine", "", vec![Ok(()), Ok(())]);
        assert!(report.conclude());
        report.check("one of two", "", vec![Ok(()), Err("node1 cannot reach node2".into())]);
        assert!(!report.conclude());

        let mut report = Report::new();
        report.check("nothing looked at", "", vec![]);
        assert!(!report.conclude());
    }
}
