//! Alerts, dashboard and documents: of nothing but metrics that are served.

use std::collections::BTreeSet;
use std::fs;

use manx_bgp::types::Family;
use manx_felix::dataplane::neighbours::Table;
use manx_felix::health::Metrics;
use manx_felix::status::{ApiReport, NodeReport};
use serde_json::Value;

use super::deploy;

/// The expressions of the alert rules and of the dashboard's panels.
fn expressions() -> Vec<String> {
    let folder = deploy().join("components/monitoring");
    let alerts: Value =
        serde_saphyr::from_str(&fs::read_to_string(folder.join("alerts.yaml")).unwrap()).unwrap();
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("manx.json")).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rules = alerts["spec"]["groups"][0]["rules"].as_array().unwrap();
    let mut all: Vec<String> = rules.iter().map(|rule| text(&rule["expr"])).collect();
    for panel in dashboard["panels"].as_array().unwrap() {
        all.extend(panel["targets"].as_array().unwrap().iter().map(|target| text(&target["expr"])));
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    all.extend(variables.iter().filter_map(|variable| variable["definition"].as_str()).map(str::to_owned));
    all
}

/// The words of an expression that are our metrics' names.
fn names(expressions: &[String]) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expressions.iter().flat_map(|text| text.split(move |c| !word(c)));
    let ours = words.filter(|word| word.starts_with("manx_"));
    ours.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
}

/// What the agent serves from its start, but for what is counted by names that are not known before. And what the speaker's README lists, which its own tests hold against what it
/// serves.
fn served() -> BTreeSet<String> {
    let readme = include_str!("../../../bgp/README.md");
    let speaker = readme.lines().filter_map(|line| line.strip_prefix("| `manx_bgpd_"));
    let speaker = speaker.map(|rest| format!("manx_bgpd_{}", rest.split('`').next().unwrap()));
    served_by_the_agent(&Metrics::new().unwrap()).into_iter().chain(speaker).collect()
}

fn served_by_the_agent(metrics: &Metrics) -> BTreeSet<String> {
    let text = metrics.render(&NodeReport::default()).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

/// All that an agent can serve.
fn all_of_the_agent() -> BTreeSet<String> {
    let metrics = Metrics::new().unwrap();
    metrics.sysctl_repairs.with_label_values(&["net/ipv4/ip_forward"]);
    metrics.plugin_seconds.with_label_values(&["add"]);
    metrics.see_neighbours(&Table { family: Family::Ipv4, entries: 1, limit: None });
    let report = NodeReport {
        api: ApiReport { in_sync: [("Node".to_owned(), true)].into(), ..Default::default() },
        ..NodeReport::default()
    };
    metrics.render(&report).unwrap();
    served_by_the_agent(&metrics)
}

#[test]
fn the_agents_readme_lists_what_it_serves() {
    let readme = include_str!("../../../felix/README.md");
    let cells = readme
        .lines()
        .filter(|line| line.starts_with("| `manx_"))
        .map(|line| line.split('|').nth(1).unwrap());
    let listed = names(&cells.map(str::to_owned).collect::<Vec<_>>());
    assert_eq!(listed, all_of_the_agent());
}

#[test]
fn documents_speak_of_what_is_served() {
    let served: BTreeSet<String> = served().into_iter().chain(all_of_the_agent()).collect();
    for page in ["README.md", "concepts.md", "peering.md", "troubleshooting.md"] {
        let text = fs::read_to_string(deploy().join(page)).unwrap();
        let missing: Vec<_> = names(&[text]).difference(&served).cloned().collect();
        assert!(missing.is_empty(), "{page}: nobody serves {missing:?}");
    }
}

#[test]
fn alerts_and_dashboard_ask_for_what_is_served() {
    let (asked, served) = (names(&expressions()), served());
    assert!(asked.len() > 12, "{asked:?}");
    let missing: Vec<_> = asked.difference(&served).collect();
    assert!(missing.is_empty(), "nobody serves {missing:?}");
}

#[test]
fn every_alert_has_a_summary_and_a_runbook() {
    let file = deploy().join("components/monitoring/alerts.yaml");
    let alerts: Value = serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    for rule in alerts["spec"]["groups"][0]["rules"].as_array().unwrap() {
        for annotation in ["summary", "runbook"] {
            let said = rule["annotations"][annotation].as_str().unwrap_or_default();
            assert!(said.len() > 20, "{}: {annotation}", rule["alert"]);
        }
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()));
    }
}
