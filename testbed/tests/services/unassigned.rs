//! What becomes of packets to addresses no Service has.

use kube::Api;
use kube::api::{Patch, PatchParams};
use manx_testbed::{Lab, eventually};
use serde_json::json;

use super::{BOTH, SOON, led_by, up};

/// Sends one to an address and gives what the client hears of it.
async fn ping(lab: &Lab, address: &str) -> String {
    let output = lab.exec("client", &["ping", "-n", "-c1", "-W1", address]).await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn nobodys_packets_end_at_the_node() {
    let (lab, client) = up("services-nobodys").await;
    led_by(&lab, "198.51.100.0/24", BOTH).await;

    // Nobody has this address; the router leads its range to the nodes, and the nodes all else to the router.
    let nobodys = "198.51.100.200";
    let guarded = || async { lab.run("node1", &["nft", "list", "table", "inet", "manx-services"]).await };
    let table = eventually(SOON, guarded).await.unwrap();
    assert!(table.contains("ip daddr 198.51.100.0/24 counter") && table.contains("drop"), "{table}");
    let heard = ping(&lab, nobodys).await;
    assert!(heard.contains("100% packet loss") && !heard.contains("exceeded"), "{heard}");
    let unassigned = |what: &'static str| {
        let configurations: Api<manx_felix::crd::BGPConfiguration> = Api::all(client.clone());
        let patch = Patch::Merge(json!({"spec": {"serviceAddresses": {"unassigned": what}}}));
        async move { configurations.patch("default", &PatchParams::default(), &patch).await.unwrap() }
    };
    for (what, words) in
        [("Reject", "Packet filtered"), ("Forward", "Time to live exceeded"), ("Drop", "100% packet loss")]
    {
        unassigned(what).await;
        let heard = || async {
            let heard = ping(&lab, nobodys).await;
            let loops = what != "Forward" && heard.contains("exceeded");
            if heard.contains(words) && !loops { Ok(()) } else { Err(format!("{what}: {heard}")) }
        };
        eventually(SOON, heard).await.unwrap();
    }
    // Someone removes the table: it is made anew.
    for node in ["node1", "node2"] {
        lab.run(node, &["nft", "delete table inet manx-services"]).await.unwrap();
        let back = || async { lab.run(node, &["nft", "list", "table", "inet", "manx-services"]).await };
        eventually(SOON, back).await.unwrap();
    }
}
