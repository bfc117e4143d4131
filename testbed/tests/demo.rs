//! The demo as a test: the whole way, once, with every check; and ended from outside, which leaves nothing either.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use manx_testbed::lab::destroy;
use manx_testbed::netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
#[ignore = "needs root: make test"]
fn every_check_of_the_demo_passes_and_nothing_is_left() {
    let name = format!("demo-test-{}", std::process::id());
    let shown =
        Command::new(env!("CARGO_BIN_EXE_manx-lab")).args(["demo", "--name", &name]).output().unwrap();
    let said = String::from_utf8_lossy(&shown.stdout);
    let complained = String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success(), "{said}\n{complained}");
    assert!(said.contains("21 of 21 checks passed"), "{said}");

    let labs = Command::new(env!("CARGO_BIN_EXE_manx-lab")).arg("list").output().unwrap();
    assert!(!String::from_utf8_lossy(&labs.stdout).contains(&name));
    assert!(netns::of_lab(&name).is_empty());
}

/// A demo that is being shown.
struct Shown {
    name: String,
    demo: Child,
    said: Option<BufReader<ChildStdout>>,
}

impl Shown {
    /// Starts it and waits until it has said this.
    fn until(name: &str, words: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let mut demo = Command::new(env!("CARGO_BIN_EXE_manx-lab"))
            .args(["demo", "--name", &name])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(demo.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "{words:?} is never said");
        }
        Self { name, demo, said: Some(said) }
    }

    /// Whether it succeeded and what it complained of, once it has ended; nothing of it is left.
    fn end(mut self) -> (bool, String) {
        if let Some(mut said) = self.said.take() {
            io::copy(&mut said, &mut io::sink()).unwrap();
        }
        let succeeded = self.demo.wait().unwrap().success();
        let mut complained = String::new();
        self.demo.stderr.take().unwrap().read_to_string(&mut complained).unwrap();
        assert!(netns::of_lab(&self.name).is_empty(), "{complained}");
        (succeeded, complained)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.demo.kill();
        let _ = self.demo.wait();
        let _ = destroy(&self.name);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn ended_from_outside_the_demo_takes_its_lab_along() {
    for (words, signal, complaint) in [
        ("8 cables", Signal::SIGINT, "manx-lab: interrupted\n"),
        ("six pods", Signal::SIGTERM, "manx-lab: terminated\n"),
        ("every pod and every node", Signal::SIGHUP, "manx-lab: the terminal is closed\n"),
    ] {
        let shown = Shown::until("demo-ended", words);
        kill(Pid::from_raw(shown.demo.id().cast_signed()), signal).unwrap();
        assert_eq!(shown.end(), (false, complaint.to_owned()), "{signal} at {words:?}");
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_reader_who_goes_away_does_not_end_the_demo_half_way() {
    let mut shown = Shown::until("demo-unread", "8 cables");
    shown.said = None;
    assert_eq!(shown.end(), (true, String::new()));
}
