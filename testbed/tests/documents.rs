//! What `deploy/peering.md` shows is what the programs it is for can read: FRR, BIRD, and Manx itself.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::process::Command;

use manx_felix::crd::{BGPConfiguration, BGPPeer, BGPPeerSpec};
use serde::Deserialize;
use serde_json::Value;

/// A fenced block, with its language and the line of text before it.
struct Snippet {
    language: String,
    before: String,
    text: String,
}

fn snippets() -> Vec<Snippet> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/peering.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut snippets: Vec<Snippet> = Vec::new();
    let (mut before, mut inside) = (String::new(), false);
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(language) if !inside => {
                inside = true;
                snippets.push(Snippet {
                    language: language.to_owned(),
                    before: std::mem::take(&mut before),
                    text: String::new(),
                });
            }
            Some(_) => inside = false,
            None if inside => {
                let snippet = snippets.last_mut().unwrap();
                snippet.text.push_str(line);
                snippet.text.push('\n');
            }
            None if !line.is_empty() => before = line.to_owned(),
            None => {}
        }
    }
    snippets
}

fn of_router(router: &str) -> Vec<String> {
    let mine = snippets().into_iter().filter(|snippet| snippet.before.starts_with(router));
    mine.map(|snippet| snippet.text).collect()
}

fn accepts(program: &str, arguments: &[&str], configuration: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), configuration).unwrap();
    let output = Command::new(program).args(arguments).arg(file.path()).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{program}: {said}\n{configuration}");
}

#[test]
#[ignore = "needs FRR: make test"]
fn frr_reads_what_is_shown_of_it() {
    let shown = of_router("**FRR**");
    assert!(!shown.is_empty());
    for configuration in shown {
        // Comments stand behind commands only on the page.
        let lines = configuration.lines().map(|line| line.split(" !").next().unwrap_or_default().trim_end());
        accepts("vtysh", &["-C", "-f"], &lines.map(|line| format!("{line}\n")).collect::<String>());
    }
}

#[test]
#[ignore = "needs BIRD: make test"]
fn bird_reads_what_is_shown_of_it() {
    let shown = of_router("**BIRD**");
    assert!(!shown.is_empty());
    for configuration in shown {
        accepts(
            "bird",
            &["-p", "-c"],
            &format!("router id 10.10.1.254;\nprotocol device {{}}\n{configuration}"),
        );
    }
}

fn containerlab(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/containerlab");
    std::fs::read_to_string(folder.join(file)).unwrap()
}

#[test]
#[ignore = "needs FRR and BIRD: make test"]
fn the_routers_of_containerlab_have_configurations_they_can_read() {
    accepts("vtysh", &["-C", "-f"], &containerlab("kind-frr/frr.conf"));
    accepts("bird", &["-p", "-c"], &containerlab("kind-bird/bird.conf"));
}

#[test]
fn objects_are_what_they_are_shown_to_be_and_have_no_other_fields() {
    let mut read = 0;
    for snippet in snippets().into_iter().filter(|snippet| snippet.language == "yaml") {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&snippet.text).unwrap();
        for document in documents {
            let again = match document["kind"].as_str() {
                Some("BGPPeer") => again::<BGPPeer>(&document),
                Some("BGPConfiguration") => again::<BGPConfiguration>(&document),
                None => serde_json::json!({ "spec": again::<BGPPeerSpec>(&document["spec"]) }),
                Some(kind) => panic!("a {kind}"),
            };
            assert_eq!(missing(&document, &again), Vec::<String>::new());
            read += 1;
        }
    }
    assert!(read >= 4, "{read}");
}

/// As the type has it.
fn again<T: for<'a> Deserialize<'a> + serde::Serialize>(document: &Value) -> Value {
    let typed: T =
        serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error} in {document}"));
    serde_json::to_value(typed).unwrap()
}

/// Fields the type does not know.
fn missing(shown: &Value, read: &Value) -> Vec<String> {
    let Some(fields) = shown.as_object() else { return Vec::new() };
    let each = fields.iter().flat_map(|(name, value)| match read.get(name) {
        None => vec![name.clone()],
        Some(inner) => missing(value, inner).into_iter().map(|below| format!("{name}.{below}")).collect(),
    });
    each.collect()
}
