//! What can go wrong with a lab.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

use manx_felix::watch::convert::words;
use thiserror::Error;

use crate::eventually::Late;
use crate::programs::NotBuilt;
use crate::topology::TopologyError;

/// Why something could not be done with a lab.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages say")]
pub enum LabError {
    /// Namespaces need root.
    #[error("network namespaces need root: run it with sudo")]
    NotRoot,
    /// The name is not one a lab may have.
    #[error(
        "lab name \"{name}\": use lower-case letters, digits and \"-\", at most 40, starting with a letter"
    )]
    BadName { name: String },
    /// Nothing is up.
    #[error("no lab is up: manx-lab up FILE.clab.yml")]
    None,
    /// It must be said which.
    #[error("several labs are up ({}): say which with --lab NAME", names.join(", "))]
    Several { names: Vec<String> },
    /// No such lab.
    #[error("no lab \"{name}\": there are {}", some(there_are))]
    NotFound { name: String, there_are: Vec<String> },
    /// Namespaces without files, or files that cannot be read.
    #[error("lab \"{name}\" is damaged ({}: {source}): remove it with \"manx-lab down {name}\"", file.display())]
    Lost { name: String, file: PathBuf, source: io::Error },
    /// The name is taken.
    #[error(
        "lab \"{name}\" exists already: remove it with \"manx-lab down {name}\", or name this one with --name"
    )]
    Exists { name: String },
    /// Somebody is building it.
    #[error("a \"manx-lab up\" is still building lab \"{name}\": wait for it, or stop it first")]
    Busy { name: String },
    /// The file is wrong.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// No such node.
    #[error("no node \"{node}\": there are {}", some(there_are))]
    NoNode { node: String, there_are: Vec<String> },
    /// No such program on that node.
    #[error("{node} runs no \"{daemon}\": it runs {}", some(there_are))]
    NoDaemon { node: String, daemon: String, there_are: Vec<String> },
    /// The program is not alive.
    #[error("{daemon} is not running on {node}")]
    NotRunning { node: String, daemon: String },
    /// The program is alive.
    #[error("{daemon} is running on {node} already, as process {pid}")]
    Running { node: String, daemon: String, pid: i32 },
    /// Not installed.
    #[error("{node}: {program} is not installed: apt-get install {package}")]
    NotInstalled { node: String, program: String, package: &'static str },
    /// Not built.
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
    /// Could not be started.
    #[error("{command}: {source}")]
    Start { command: String, source: io::Error },
    /// A command failed.
    #[error("{place}: \"{command}\" failed ({status}): {said}")]
    Command { place: String, command: String, status: String, said: String },
    /// The inside of a node could not be made.
    #[error("{node}: {why}")]
    Setup { node: String, why: String },
    /// A program ended, or did not become ready.
    #[error("{daemon} on {node} {why}; its log ({}) ends:\n{}", log.display(), indent(tail))]
    Daemon { node: String, daemon: String, why: String, log: PathBuf, tail: String },
    /// Something did not happen in time.
    #[error("{what}: {late}")]
    Late { what: String, late: Late },
    /// A program's answer was not understood.
    #[error("{of}: unexpected answer: {why}")]
    Answer { of: String, why: String },
    /// A file of the lab.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The namespaces could not be removed.
    #[error("cannot remove lab \"{name}\": {source}")]
    Down { name: String, source: io::Error },
    /// The Kubernetes API refused.
    #[error("Kubernetes API: {what}: {}", words(source.as_ref()))]
    Kube { what: String, source: Box<kube::Error> },
    /// The kubeconfig could not be used.
    #[error("{}: {why}", file.display())]
    Kubeconfig { file: PathBuf, why: String },
    /// A manifest is wrong.
    #[error("{}: {why}", file.display())]
    Manifest { file: PathBuf, why: String },
    /// The topology has no Kubernetes API.
    #[error("lab \"{name}\" has no kube-apiserver node")]
    NoKube { name: String },
    /// A pod of that name is there.
    #[error("pod {namespace}/{name} exists already, on {node}")]
    PodExists { namespace: String, name: String, node: String },
    /// No such pod.
    #[error("no pod {namespace}/{name}: see \"manx-lab pod list\"")]
    NoPod { namespace: String, name: String },
    /// The CNI plugin said no.
    #[error("manx {verb} for {pod}: {message}{} (CNI error {code})", parenthesis(details))]
    Cni { verb: &'static str, pod: String, code: u64, message: String, details: String },
}

impl LabError {
    pub(crate) fn start<S: AsRef<OsStr>>(argv: &[S], source: io::Error) -> Self {
        Self::Start { command: line(argv), source }
    }

    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::File { path, source }
    }

    pub(crate) fn kube(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        |source| Self::Kube { what, source: Box::new(source) }
    }
}

/// A command as one line, for people.
pub(crate) fn line<S: AsRef<OsStr>>(argv: &[S]) -> String {
    let words: Vec<_> = argv.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
    words.join(" ")
}

fn some(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn indent(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

fn parenthesis(details: &str) -> String {
    if details.is_empty() { String::new() } else { format!(" ({details})") }
}
