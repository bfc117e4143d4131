//! Messages of real speakers, one a file in `tests/vectors`: parsed, compared with its snapshot, written.
//!
//! A file begins with three lines: where it was captured, the session it belongs to, and whether the
//! speaker wrote it as we would (others use extended lengths or repeat parameters where there is no need).

use std::fs;
use std::path::Path;

use manx_bgp::types::Family;
use manx_bgp::wire::{AddPath, Session};

use crate::{read, write};

#[test]
fn every_captured_message_is_understood_and_written_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() > 20, "only {} vectors", names.len());
    for path in names {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let field = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(&format!("# {key}: ")))
                .unwrap_or_else(|| panic!("{name}: no {key}"))
        };
        assert!(!field("captured").is_empty());
        let session = session(field("session"));
        let octets = octets(&text);

        let message = read(&octets, &session).unwrap_or_else(|notification| panic!("{name}: {notification}"));
        insta::with_settings!({ description => field("captured"), omit_expression => true }, {
            insta::assert_debug_snapshot!(name.as_str(), message);
        });
        let written = write(&message, &session);
        match field("canonical") {
            "yes" => assert_eq!(written, octets, "{name}"),
            // What RFC 7606 forgave is not written again.
            _ => assert_eq!(
                without_faults(read(&written, &session).unwrap()),
                without_faults(message),
                "{name}"
            ),
        }
    }
}

fn without_faults(mut message: manx_bgp::wire::Message) -> manx_bgp::wire::Message {
    if let manx_bgp::wire::Message::Update(update) = &mut message {
        update.faults.clear();
    }
    message
}

fn session(words: &str) -> Session {
    let has = |word: &str| words.split_whitespace().any(|other| other == word);
    let families = [(has("ipv4"), Family::Ipv4), (has("ipv6"), Family::Ipv6)];
    Session {
        asn4: has("asn4"),
        families: families.into_iter().filter(|(on, _)| *on).map(|(_, family)| family).collect(),
        ebgp: has("ebgp"),
        extended: has("extended"),
        add_path: AddPath::default(),
    }
}

fn octets(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("hexadecimal digits") as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
