//! `manx`: the CNI plugin. Environment and standard input in, one JSON document on standard output out.

use std::env;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use manx_cni::add::add;
use manx_cni::check::check;
use manx_cni::config::Config;
use manx_cni::del::del;
use manx_cni::environment::Command;
use manx_cni::gc::gc;
use manx_cni::spec::{CniError, Version, code, version_document};
use manx_cni::status::status;
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
    let mut config = |verb: &str, since: Version| {
        let config = Config::parse(&input)?;
        *version = config.version;
        if config.version >= since {
            return Ok(config);
        }
        let (spoken, since) = (config.version.as_str(), since.as_str());
        let details = format!("cniVersion is {spoken}; {verb} came with {since}");
        Err(CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI version", details))
    };
    match command {
        Command::Version => version_document(&input).map(Some),
        Command::Add { key, netns, args } => {
            add(&config("ADD", Version::V0_3_1)?, key, &netns, args).map(Some)
        }
        Command::Del { key } => del(&config("DEL", Version::V0_3_1)?, key).map(|()| None),
        Command::Check { key, netns } => {
            check(&config("CHECK", Version::V0_4_0)?, key, &netns).map(|()| None)
        }
        Command::Gc => gc(&config("GC", Version::V1_1_0)?).map(|()| None),
        Command::Status => status(&config("STATUS", Version::V1_1_0)?).map(|()| None),
    }
}
