#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use super::document::parse;
use super::*;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// What Helm makes of a template of ours: each expression's value as JSON.
fn rendered(template: &str, values: &Value) -> Vec<Document> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{ ") {
        let (expression, after) = after.split_once(" }}").unwrap();
        text += before;
        let expression = expression.strip_suffix(" | toJson").unwrap();
        let (format, path) = match expression.strip_prefix("printf \"") {
            Some(arguments) => arguments.split_once("\" ").unwrap(),
            None => ("%v", expression),
        };
        let (path, verb) = match path.strip_prefix("(int64 ").and_then(|path| path.strip_suffix(')')) {
            Some(path) => (path, "%d"),
            None => (path, "%v"),
        };
        let path = path.strip_prefix(".Values.").unwrap().replace('.', "/");
        let value = values.pointer(&format!("/{path}")).unwrap();
        text += &match format {
            "%v" => value.to_string(),
            _ if verb == "%d" => {
                Value::from(format.replace(verb, &value.as_u64().unwrap().to_string())).to_string()
            }
            _ => Value::from(format.replace("%v", value.as_str().unwrap())).to_string(),
        };
        rest = after;
    }
    parse(&(text + rest)).unwrap()
}

fn default_values() -> Value {
    let files = files(&deploy()).unwrap();
    parse(&files["values.yaml"]).unwrap()[0].value().clone()
}

#[test]
fn the_chart_is_that_of_the_base() {
    for (name, text) in files(&deploy()).unwrap() {
        let checked_in = fs::read_to_string(deploy().join("chart").join(&name)).unwrap_or_default();
        assert!(checked_in == text, "deploy/chart/{name} is stale: run `make manifests`");
    }
}

#[test]
fn with_its_default_values_the_chart_is_the_base() {
    let (files, values) = (files(&deploy()).unwrap(), default_values());
    for file in BASE {
        let base = read(&deploy().join("base").join(file)).unwrap();
        assert_eq!(rendered(&files[&format!("templates/{file}")], &values), base, "{file}");
    }
}

#[test]
fn every_value_gets_to_its_place() {
    let (files, defaults) = (files(&deploy()).unwrap(), default_values());
    for value in VALUES.iter().filter(|value| !value.places.is_empty()) {
        let mut values = defaults.clone();
        let place = values.pointer_mut(&format!("/{}", value.path.replace('.', "/"))).unwrap();
        let another = if place.is_number() { Value::from(u32::MAX) } else { "another".into() };
        *place = another.clone();
        let all: Vec<Document> =
            BASE.iter().flat_map(|file| rendered(&files[&format!("templates/{file}")], &values)).collect();
        for place in value.places {
            let found = all.iter().find_map(|document| document.get(place));
            assert_eq!(found, Some(another.clone()), "{} at {place:?}", value.path);
        }
    }
}

#[test]
fn the_schema_takes_the_defaults_and_refuses_what_is_not_there() {
    let schema = jsonschema::validator_for(&values::schema()).unwrap();
    let defaults = default_values();
    let errors: Vec<String> = schema.iter_errors(&defaults).map(|error| error.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new());
    for (pointer, bad) in [
        ("/agent/logs", Value::from("info")),
        ("/agent/image", Value::from("")),
        ("/agent/healthAddr", Value::from("127.0.0.1:80")),
        ("/agent/routeTable", Value::from(0)),
        ("/agent/routeMetric", Value::from("13")),
        ("/agent/resources", serde_json::json!({ "request": {} })),
        ("/bgp", Value::from(64512)),
        ("/pools/more", serde_json::json!({ "blockSize": 26 })),
        ("/cni/binDir", Value::from("opt/cni/bin")),
        ("/speakers", Value::from(1)),
    ] {
        let mut values = defaults.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        values.pointer_mut(parent).unwrap()[name] = bad;
        assert!(!schema.is_valid(&values), "{pointer}");
    }
}
