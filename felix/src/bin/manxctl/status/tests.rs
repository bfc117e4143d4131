use manx_bgp::types::{Asn, RouterId};
use manx_felix::status::{
    ApiReport, BlockReport, FilterReport, PodReport, ProblemReport, RouteReport, ServiceReport, SpeakerReport,
};

use super::*;
use crate::bgp::tests::session;
use crate::cluster::tests::small_cluster;

fn node() -> NodeReport {
    NodeReport {
        node: "node1".to_owned(),
        version: "0.1.0".to_owned(),
        uptime_seconds: 3_700,
        ready: true,
        api: ApiReport {
            reachable: true,
            reason: None,
            in_sync: [("Node", true), ("Pod", false), ("IPPool", false)]
                .map(|(k, v)| (k.to_owned(), v))
                .into(),
        },
        speaker: SpeakerReport {
            up: true,
            daemon: "manx-bgpd 0.1.0".to_owned(),
            reason: None,
            asn: Some(Asn(64512)),
            router_id: Some(RouterId([10, 0, 0, 11].into())),
            synced: true,
            sessions: vec![
                session("10.0.0.1", "tor1", SessionState::Established, None),
                session("10.0.0.2", "tor2", SessionState::Active, Some("connection refused")),
            ],
            originated: Vec::new(),
        },
        blocks: vec![BlockReport {
            cidr: "10.244.3.64/26".to_owned(),
            pool: "default".to_owned(),
            used: 2,
            size: 64,
            acknowledged: true,
        }],
        pods: vec![
            PodReport {
                namespace: "default".to_owned(),
                name: "web".to_owned(),
                container_id: "c1".to_owned(),
                ifname: "eth0".to_owned(),
                host_ifname: "manxabcdefghijk".to_owned(),
                addresses: vec!["10.244.3.64".parse().unwrap(), "fd00::40".parse().unwrap()],
                state: "attached".to_owned(),
                known: true,
            },
            PodReport {
                namespace: String::new(),
                name: String::new(),
                container_id: "c2".to_owned(),
                ifname: "eth0".to_owned(),
                host_ifname: "manxbbbbbbbbbbb".to_owned(),
                addresses: Vec::new(),
                state: "attaching".to_owned(),
                known: false,
            },
        ],
        routes: RouteReport {
            pods: 2,
            blocks: 1,
            learned: 5,
            wanted: 8,
            installed: 7,
            failing: 1,
            failures: vec!["10.9.0.0/16: network is unreachable".to_owned()],
            swept: true,
        },
        filter: FilterReport {
            generation: 41,
            endpoints: 2,
            policies: 3,
            sets: 4,
            members: 120,
            commits: 9,
            refused: 1,
            failing: Some("no buffer space available".to_owned()),
            repaired: 2,
            swept: true,
            ..FilterReport::default()
        },
        services: ServiceReport::default(),
        problems: vec![ProblemReport {
            object: "BGPPeer/tor3".to_owned(),
            message: "spec.address: \"10.0.0\" is no address".to_owned(),
        }],
    }
}

fn report(node: anyhow::Result<NodeReport>, cluster: anyhow::Result<ClusterReport>) -> Report {
    let (node, node_error) = halves(node);
    let (cluster, cluster_error) = halves(cluster);
    Report { node, node_error, cluster, cluster_error }
}

#[test]
fn a_node_and_its_cluster_on_one_page() {
    insta::assert_snapshot!(render(&report(Ok(node()), Ok(small_cluster()))));
}

#[test]
fn what_is_away_is_said_in_its_place() {
    let mut node = node();
    node.ready = false;
    node.api =
        ApiReport { reachable: false, reason: Some("connection refused".to_owned()), in_sync: [].into() };
    node.speaker = SpeakerReport {
        reason: Some("manx-bgpd at /run/manx/bgpd.sock: no such file".to_owned()),
        ..Default::default()
    };
    (node.blocks, node.pods, node.problems) = (Vec::new(), Vec::new(), Vec::new());
    let text =
        render(&report(Ok(node), Err(anyhow::anyhow!("reading https://10.0.0.1:6443/: connection refused"))));
    insta::assert_snapshot!(text);
}

#[test]
fn a_cluster_is_shown_from_a_machine_that_is_no_node() {
    let report = report(Err(anyhow::anyhow!("the agent is not running")), Ok(small_cluster()));
    assert!(render(&report).starts_with("THIS NODE\nthe agent is not running\n\nCLUSTER NODES\n"));
    assert!(report.verdict().is_ok());
}

#[test]
fn it_fails_only_when_neither_can_be_reached() {
    assert!(report(Ok(node()), Err(anyhow::anyhow!("down"))).verdict().is_ok());
    assert!(report(Err(anyhow::anyhow!("down")), Err(anyhow::anyhow!("down"))).verdict().is_err());
}

#[test]
fn the_document_has_both_halves_and_their_errors() {
    let document = serde_json::to_value(report(Ok(node()), Err(anyhow::anyhow!("down")))).unwrap();
    assert_eq!(document["node"]["node"], "node1");
    assert_eq!(document["nodeError"], serde_json::Value::Null);
    assert_eq!(document["cluster"], serde_json::Value::Null);
    assert_eq!(document["clusterError"], "down");
    let cluster = serde_json::to_string_pretty(&small_cluster()).unwrap();
    insta::assert_snapshot!(cluster);
}
