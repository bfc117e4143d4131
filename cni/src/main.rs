//! `manx`: the CNI plugin. Environment and standard input in, one JSON document on standard output out.

use std::env;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use manx_cni::add::add;
use manx_cni::del::del;
use manx_cni::environment::Command;
use manx_cni::spec::{CniError, Config, Version, code, version_document};
use serde_json::Value;

fn main() -> ExitCode {
    let mut version = Version::NEWEST;
    let (document, status) = match run(&mut version) {
        Ok(document) => (document, ExitCode::SUCCESS),
        Err(error) => (Some(error.document(version)), ExitCode::FAILURE),
    };
    let Some(document) = document else { return status };
    match writeln!(io::stdout(), "{document}") {
        Ok(()) => status,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Does what the environment says. `version` becomes the one the runtime speaks, once that is known.
fn run(version: &mut Version) -> Result<Option<Value>, CniError> {
    let command = Command::parse(|name| env::var(name).ok())?;
    let mut input = Vec::new();
    io::stdin()
        .read_to_end(&mut input)
        .map_err(|error| CniError::new(code::IO, "cannot read standard input", error.to_string()))?;
    let mut config = || {
        let config = Config::parse(&input)?;
        *version = config.version;
        Ok::<_, CniError>(config)
    };
    match command {
        Command::Version => version_document(&input).map(Some),
        Command::Add { key, netns, pod } => add(&config()?, key, &netns, pod).map(Some),
        Command::Del { key } => del(&config()?, key).map(|()| None),
    }
}
