use serde_json::{Value, json};

use super::*;
use crate::spec::Version;

fn key() -> AttachmentKey {
    AttachmentKey { container_id: "c1".into(), ifname: "eth0".into() }
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xab];

fn result() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": host_ifname(&key()), "mac": "ee:ee:ee:ee:ee:ee", "mtu": 1500},
            {"name": "eth0", "mac": "02:00:00:00:00:ab", "mtu": 1500, "sandbox": "/run/netns/p"},
            {"name": "ifb0"},
        ],
        "ips": [
            {"address": "10.244.1.5/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd00::5/128", "gateway": "fe80::1", "interface": 1},
            {"address": "192.0.2.77/24", "interface": 2},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
            {"dst": "::/0", "gw": "fe80::1"},
            {"dst": "198.51.100.0/24", "gw": "192.0.2.1"},
        ],
    })
}

fn read(previous: Option<Value>) -> Result<Given, CniError> {
    let mut config = Config::parse(br#"{"cniVersion":"1.1.0","name":"manx"}"#).unwrap();
    assert_eq!(config.version, Version::V1_1_0);
    config.previous = previous;
    Given::read(&config, &key())
}

/// As an ADD leaves it.
fn seen() -> Seen {
    let (v4, v6): (IpAddr, IpAddr) = ("10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap());
    let (gateway4, gateway6) = (IpAddr::from(GATEWAY_V4), IpAddr::from(GATEWAY_V6));
    let any = |text: &str| text.parse::<IpNetwork>().unwrap();
    Seen {
        pod: Some(End {
            index: 2,
            mac: MAC,
            mtu: 1500,
            up: true,
            peer: 7,
            addresses: vec![v4.into(), v6.into(), any("fe80::ab/64")],
            neighbours: vec![(gateway4, HOST_MAC), (gateway6, HOST_MAC)],
            routes: vec![
                (gateway4.into(), None),
                (any("0.0.0.0/0"), Some(gateway4)),
                (any("::/0"), Some(gateway6)),
                (any("fe80::/64"), None),
            ],
        }),
        host: Some(End {
            index: 7,
            mac: HOST_MAC,
            mtu: 1500,
            up: true,
            peer: 2,
            addresses: vec![any("fe80::1/64")],
            neighbours: vec![(v4, MAC), (v6, MAC)],
            routes: Vec::new(),
        }),
        host_routes: vec![Some((v4.into(), Some(7))), Some((v6.into(), Some(7)))],
        agent: Some(Attached { addresses: vec![v4, v6], host_ifindex: 7 }),
    }
}

fn pod(seen: &mut Seen) -> &mut End {
    seen.pod.as_mut().unwrap()
}

fn host(seen: &mut Seen) -> &mut End {
    seen.host.as_mut().unwrap()
}

#[test]
fn what_an_add_left_has_no_differences() {
    assert_eq!(differences(&read(Some(result())).unwrap(), &seen()), Vec::<String>::new());
}

#[test]
fn every_difference_is_told_in_words() {
    type Break = fn(&mut Seen);
    let cases: &[(Break, &str)] = &[
        (|seen| pod(seen).up = false, "eth0 in the container is down"),
        (|seen| pod(seen).mac[5] = 1, "eth0 has the MAC 02:00:00:00:00:01, not 02:00:00:00:00:ab"),
        (|seen| pod(seen).mtu = 9000, "eth0 has an MTU of 9000, more than the 1500 it was given"),
        (|seen| pod(seen).peer = 8, "eth0 is not the other end of manx6orwko3gpc6"),
        (|seen| _ = pod(seen).addresses.remove(1), "eth0 has no usable address fd00::5/128"),
        (|seen| _ = pod(seen).neighbours.remove(0), "eth0 has no permanent neighbour 169.254.1.1"),
        (|seen| _ = pod(seen).routes.remove(0), "the container has no link route to 169.254.1.1"),
        (|seen| _ = pod(seen).routes.remove(1), "the container has no route to 0.0.0.0/0 by 169.254.1.1"),
        (|seen| host(seen).up = false, "manx6orwko3gpc6 on the node is down"),
        (
            |seen| host(seen).mac[0] = 2,
            "manx6orwko3gpc6 has the MAC 02:ee:ee:ee:ee:ee, not ee:ee:ee:ee:ee:ee",
        ),
        (|seen| host(seen).mtu = 1400, "manx6orwko3gpc6 has an MTU of 1400, not 1500"),
        (|seen| host(seen).addresses.clear(), "manx6orwko3gpc6 has no usable address fe80::1"),
        (
            |seen| host(seen).neighbours[0].1[5] = 1,
            "manx6orwko3gpc6 has no permanent neighbour 10.244.1.5 with the container's MAC",
        ),
        (
            |seen| seen.host_routes[1] = Some(("fd00::/64".parse().unwrap(), None)),
            "the node's route to fd00::5 does not lead to manx6orwko3gpc6",
        ),
        (
            |seen| seen.agent.as_mut().unwrap().addresses.truncate(1),
            "the agent holds the addresses 10.244.1.5, not 10.244.1.5, fd00::5",
        ),
        (
            |seen| seen.agent.as_mut().unwrap().host_ifindex = 9,
            "the agent knows manx6orwko3gpc6 as interface 9, not 7",
        ),
        (|seen| seen.pod = None, "the container has no interface eth0"),
        (|seen| seen.agent = None, "the agent knows of no such attachment"),
    ];
    for (break_it, words) in cases {
        let mut seen = seen();
        break_it(&mut seen);
        assert_eq!(differences(&read(Some(result())).unwrap(), &seen), [*words]);
    }
}

#[test]
fn all_differences_are_told_at_once() {
    let seen = Seen { host: None, agent: None, ..seen() };
    assert_eq!(
        differences(&read(Some(result())).unwrap(), &seen),
        ["the node has no interface manx6orwko3gpc6", "the agent knows of no such attachment"]
    );
}

#[test]
fn a_later_plugin_may_lower_the_mtu_and_change_what_it_lists() {
    let mut given = result();
    given["interfaces"][1]["mac"] = "02:00:00:00:00:01".into();
    given["routes"] = json!([]);
    let mut seen = seen();
    pod(&mut seen).mtu = 1300;
    pod(&mut seen).mac[5] = 1;
    pod(&mut seen).routes.truncate(1);
    host(&mut seen).neighbours.iter_mut().for_each(|neighbour| neighbour.1[5] = 1);
    assert_eq!(differences(&read(Some(given)).unwrap(), &seen), Vec::<String>::new());
}

#[test]
fn results_of_older_versions_say_no_mtu_and_are_compared_all_the_same() {
    let mut given = result();
    for interface in given["interfaces"].as_array_mut().unwrap() {
        interface.as_object_mut().unwrap().remove("mtu");
    }
    given["ips"][0]["version"] = "4".into();
    let mut seen = seen();
    host(&mut seen).mtu = 1400;
    assert_eq!(differences(&read(Some(given)).unwrap(), &seen), Vec::<String>::new());
}

#[test]
fn a_prev_result_that_is_missing_or_of_something_else_is_code_7() {
    for (previous, words) in [
        (None, "prevResult is not set"),
        (Some(json!({})), "prevResult lists no interface eth0 in a container"),
        (Some(json!({"ips": 7})), "prevResult cannot be read"),
        (
            Some(json!({"interfaces": [{"name": "eth0", "sandbox": "/n"}]})),
            "prevResult says that eth0 has the MAC \"\"",
        ),
    ] {
        let error = read(previous).unwrap_err();
        assert_eq!(error.code, code::INVALID_CONFIG);
        assert!(error.details.starts_with(words), "{error}");
    }
}
