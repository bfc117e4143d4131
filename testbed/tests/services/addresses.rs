//! Which addresses Services are given, and who is told why there is none.

use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use manx_testbed::eventually;
use serde_json::json;

use super::{SOON, create, given, services, up};

#[tokio::test]
#[ignore = "needs root: make test"]
async fn services_have_addresses_of_pools_and_are_told_why_they_have_none() {
    let (lab, client) = up("services-addresses").await;
    let balancer = || json!({"type": "LoadBalancer"});
    create(&client, "one", json!({}), balancer()).await;
    create(&client, "wish", json!({"manx.io/ips": "198.51.100.77"}), balancer()).await;
    let class = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other"});
    create(&client, "theirs", json!({}), class).await;
    assert_eq!(given(&client, "one", 1).await, ["198.51.100.0"]);
    assert_eq!(given(&client, "wish", 1).await, ["198.51.100.77"]);
    let status = services(&client).get("one").await.unwrap().status.unwrap();
    let ingress = status.load_balancer.unwrap().ingress.unwrap();
    assert_eq!(ingress[0].ip_mode.as_deref(), Some("VIP"));

    create(&client, "rival", json!({"manx.io/ips": "198.51.100.77"}), balancer()).await;
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let told = || async {
        let events = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let mut notes = events.items.iter().filter_map(|event| event.note.as_deref());
        let said = notes.any(|note| note.contains("198.51.100.77 is the address of Service default/wish"));
        if said { Ok(()) } else { Err(format!("{:?}", events.items)) }
    };
    eventually(SOON, told).await.unwrap();
    assert_eq!(given(&client, "theirs", 0).await, [""; 0]);

    // The agent that gives goes away for good; the other goes on, and gives what is free again.
    lab.kill("node1", "manx-felix", nix::sys::signal::Signal::SIGKILL).unwrap();
    services(&client).delete("wish", &DeleteParams::default()).await.unwrap();
    assert_eq!(given(&client, "rival", 1).await, ["198.51.100.77"]);
    create(&client, "two", json!({}), balancer()).await;
    assert_eq!(given(&client, "two", 1).await, ["198.51.100.1"]);
    assert_eq!(given(&client, "one", 1).await, ["198.51.100.0"]);
}
