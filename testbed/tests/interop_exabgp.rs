//! manx-bgpd of an AS that takes four octets, and ExaBGP, which speaks with two and says things that are malformed.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use manx_bgp::api::{Reply, Request, SessionState};
use manx_testbed::{Lab, Options, TemporaryLab, Topology, eventually};
use serde_json::Value;

/// Long enough for a retry after an error, and a machine that builds something else.
const SOON: Duration = Duration::from_secs(30);

/// AS_TRANS (RFC 6793).
const AS_TRANS: u64 = 23456;

async fn up(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/interop-exabgp.clab.yml");
    let topology = Topology::read(&file).unwrap();
    let options = Options { name: Some(format!("exabgp-{name}")), ..Options::default() };
    Lab::up(&topology, options).await.unwrap().temporary()
}

/// What ExaBGP has heard, a message a line.
async fn heard(lab: &Lab) -> Vec<Value> {
    let said = lab.run("exabgp", &["cat", "/run/heard.json"]).await.unwrap_or_default();
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.map(|mut message| message["neighbor"].take()).collect()
}

/// The AS path, as manx-bgpd has it.
async fn as_path(lab: &Lab, prefix: &str) -> Option<String> {
    let request = Request::Routes { prefix: Some(prefix.parse().unwrap()) };
    match lab.ask_bgpd("manx", &request).await {
        Ok(Reply::Table { destinations }) => Some(destinations.first()?.paths.first()?.as_path.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn rfc6793_four_octet_as_numbers_pass_a_neighbour_of_two_octets_both_ways() {
    let lab = up("as4").await;
    let told = || async {
        let heard = heard(&lab).await;
        let update = |message: &&Value| message["message"]["update"]["announce"].is_object();
        heard.iter().find(update).cloned().ok_or(format!("{heard:#?}")).map(|update| (heard, update))
    };
    let (heard, update) = eventually(SOON, told).await.unwrap();
    let open = heard.iter().find(|message| message["open"].is_object()).unwrap();
    assert_eq!(open["open"]["asn"], AS_TRANS);
    // AS_PATH has AS_TRANS twice; AS4_PATH beside it what ExaBGP makes one path of.
    let octets: String = heard.iter().filter_map(|message| message["message"]["body"].as_str()).collect();
    for attribute in ["40020602025BA05BA0", "C0110A0202FA56EA01FA56EA01"] {
        assert!(octets.contains(attribute), "{attribute} in {octets}");
    }
    let attributes = &update["message"]["update"]["attribute"];
    assert_eq!(attributes["as-path"], serde_json::json!([4_200_000_001_u32, 4_200_000_001_u32]));
    let ours = || async {
        let path = as_path(&lab, "203.0.113.0/24").await;
        if path.as_deref() == Some("65001 4200000007") { Ok(()) } else { Err(format!("{path:?}")) }
    };
    eventually(SOON, ours).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn rfc7606_a_malformed_attribute_of_exabgps_costs_its_route_and_no_session() {
    let lab = up("malformed").await;
    let counted = || async {
        let page = lab.run("manx", &["busybox", "wget", "-qO-", "http://127.0.0.1:9099/metrics"]).await;
        let page = page.map_err(|error| error.to_string())?;
        let series = "manx_bgpd_attribute_faults_total{action=\"withdraw\",attribute=\"COMMUNITIES\",peer=\"10.0.0.2\"} 1";
        if page.contains(series) { Ok(()) } else { Err(page) }
    };
    eventually(SOON, counted).await.unwrap();
    assert_eq!(as_path(&lab, "198.51.100.0/24").await, None);
    let good = || async { as_path(&lab, "203.0.113.0/24").await.ok_or("the good one is not there") };
    eventually(SOON, good).await.unwrap();
    let Ok(Reply::Status(status)) = lab.ask_bgpd("manx", &Request::Status).await else { panic!("no status") };
    assert_eq!((status.sessions[0].state, status.sessions[0].flaps), (SessionState::Established, 0));
}
