//! What an earlier build said and wrote is understood: recorded messages of both sockets, and the files under `/run/manx`.
//!
//! `versions/*.txt` are frames in the order they were seen, `>` from the caller, `<` the answer, `*` news of a connection that
//! watches: of the agent with its speaker, and of plugins with their agent. `versions/run` is what that agent left in its
//! state directory.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use manx_bgp::api;
use manx_cni::protocol;
use manx_felix::attach::files::Files;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/versions")
}

/// The messages of a file, with who says them.
fn recorded(file: &str) -> Vec<(char, Value)> {
    let text = fs::read_to_string(folder().join(file)).unwrap();
    let messages =
        text.lines().map(|line| (line.chars().next().unwrap(), serde_json::from_str(&line[2..]).unwrap()));
    let messages: Vec<_> = messages.collect();
    assert!(messages.len() >= 8, "{file}: {}", messages.len());
    messages
}

/// The paths of all fields.
fn fields(path: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let path = format!("{path}.{name}");
                found.insert(path.clone());
                fields(&path, inner, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(path, item, found)),
        _ => {}
    }
}

/// Reads a message as today's programs do. What they would write of it has no field that the earlier build did not know:
/// it would refuse an order that has one.
fn understood<T: DeserializeOwned + Serialize>(message: &Value) {
    let read: T =
        serde_json::from_value(message.clone()).unwrap_or_else(|error| panic!("{error}: {message}"));
    let (mut before, mut now) = (BTreeSet::new(), BTreeSet::new());
    fields("", message, &mut before);
    fields("", &serde_json::to_value(&read).unwrap(), &mut now);
    let added: Vec<_> = now.difference(&before).collect();
    assert!(added.is_empty(), "{added:?} are written without being used: {message}");
}

#[test]
fn what_an_earlier_agent_ordered_and_its_speaker_answered_is_understood() {
    for (who, message) in recorded("speaker.txt") {
        match who {
            '>' => understood::<api::Request>(&message),
            '*' => understood::<api::News>(&message),
            // What is answered may say more than before.
            _ => drop(
                serde_json::from_value::<api::Reply>(message.clone())
                    .unwrap_or_else(|error| panic!("{error}: {message}")),
            ),
        }
    }
}

#[test]
fn what_earlier_plugins_asked_and_their_agent_answered_is_understood() {
    for (who, message) in recorded("agent.txt") {
        match who {
            '>' => understood::<protocol::Request>(&message),
            _ => drop(
                serde_json::from_value::<protocol::Reply>(message.clone())
                    .unwrap_or_else(|error| panic!("{error}: {message}")),
            ),
        }
    }
}

#[test]
fn fields_of_a_later_release_are_passed_over_but_in_orders_where_they_are_named() {
    for (who, mut message) in recorded("speaker.txt") {
        if let ('*', Some(group)) = (who, message.pointer_mut("/routes/0")) {
            group["later"] = json!({ "a": 1 });
        } else if who != '*' {
            message["later"] = json!({ "a": 1 });
        }
        match who {
            '*' => drop(serde_json::from_value::<api::News>(message.clone()).unwrap()),
            '>' => drop(serde_json::from_value::<api::Request>(message.clone()).unwrap()),
            _ => drop(serde_json::from_value::<api::Reply>(message.clone()).unwrap()),
        }
        if message["type"] == "apply" {
            message["config"]["later"] = json!(true);
            let refused = serde_json::from_value::<api::Request>(message).unwrap_err().to_string();
            assert!(refused.contains("unknown field `later`"), "{refused}");
        }
    }
    for (who, mut message) in recorded("agent.txt") {
        message["later"] = json!([1]);
        match who {
            '>' => drop(serde_json::from_value::<protocol::Request>(message).unwrap()),
            _ => drop(serde_json::from_value::<protocol::Reply>(message).unwrap()),
        }
    }
}

#[test]
fn files_of_an_earlier_agent_are_read_and_fields_of_a_later_one_passed_over() {
    let state = tempfile::tempdir().unwrap();
    let attachments = state.path().join("attachments");
    fs::create_dir(&attachments).unwrap();
    let mut written = 0;
    for entry in fs::read_dir(folder().join("run/attachments")).unwrap() {
        let path = entry.unwrap().path();
        let mut attachment: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        attachment["later"] = json!("said");
        fs::write(attachments.join(path.file_name().unwrap()), attachment.to_string()).unwrap();
        written += 1;
    }
    let loaded = Files::open(state.path()).unwrap().load().unwrap();
    assert_eq!(loaded.set_aside, Vec::<String>::new());
    assert_eq!((loaded.attachments.len(), written > 0), (written, true));
    let notes = manx_cni::released::read(&folder().join("run/agent.sock")).unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
}
