//! What becomes of packets: the kernel's word against the ruleset's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use manx_bgp::types::Family;
use manx_felix::acl::denied::Denied;
use manx_felix::acl::driver::{Connections, Driver};
use manx_felix::acl::evaluate::{Flow, Transport};
use manx_felix::acl::ruleset::{
    Action, Chain, Delta, Direction, Endpoint, Ifname, Mode, Network, Peer, Policy, PolicyId, PortRange,
    Ports, Protocol, Rule, Ruleset, Spoofing, Tier,
};

use crate::lab::{Host, Lab};
use crate::probe::Probe;
use crate::world::{Dice, a_ruleset, eventually, in_a_namespace, run, step, wait};

/// Whether the ruleset lets a packet through, between these hosts of the lab.
fn passes(ruleset: &Ruleset, lab: &Lab, from: usize, to: usize, flow: &Flow) -> bool {
    let ifname = |host: usize| (host < lab.pods.len()).then(|| Ifname(format!("manx{host}").into()));
    let known = |host: usize| ifname(host).is_none_or(|name| ruleset.endpoints.contains_key(&name));
    let verdicts = ruleset.judge(ifname(from).as_ref(), flow);
    known(from) && known(to) && verdicts.iter().all(|(_, verdict)| verdict.passes)
}

fn transport(protocol: u8, port: u16) -> Transport {
    match protocol {
        6 => Transport::Port(Protocol::Tcp, port),
        17 => Transport::Port(Protocol::Udp, port),
        132 => Transport::Port(Protocol::Sctp, port),
        other => Transport::Other(other),
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_kernel_does_with_packets_what_the_ruleset_says() {
    in_a_namespace(|| {
        let lab = Lab::new(5);
        let hosts = lab.hosts();
        let driver = Driver::start(Connections::Keep).unwrap();
        driver.sweep();
        let mut dice = Dice(0x9e37_79b9);
        let (mut now, mut number) = (Ruleset::default(), 0u32);
        let (mut passed, mut denied) = (0, 0);
        for round in 0..80 {
            let mut next = a_ruleset(&mut dice);
            next.node = lab.node.addresses.into();
            wait(driver.update(step(&now, &next))).unwrap();
            now = next;
            let (mut expected, mut probes) = (BTreeSet::new(), Vec::new());
            for _ in 0..60 {
                let (from, to) = (dice.roll(hosts.len()), dice.roll(hosts.len()));
                let family = Family::ALL[dice.roll(2)];
                let echo = if family == Family::Ipv4 { 1 } else { 58 };
                let protocol = [6, 6, 17, 17, 132, echo][dice.roll(6)];
                let port = if protocol == 17 { dice.roll(64) } else { 78 + dice.roll(7) } as u16;
                number += 1;
                let source_port = 1024 + (number % 60_000) as u16;
                let (source, destination) = (hosts[from].address(family), hosts[to].address(family));
                let flow = Flow { source, destination, transport: transport(protocol, port) };
                if from == to {
                    continue;
                }
                if passes(&now, &lab, from, to, &flow) {
                    expected.insert(number);
                }
                probes.push((from, to, Probe { number, source, destination, protocol, source_port, port }));
            }
            for (place, host) in hosts.iter().enumerate() {
                host.send(
                    probes
                        .iter()
                        .filter(|(from, ..)| *from == place)
                        .map(|(.., probe)| probe.clone())
                        .collect(),
                );
            }
            let heard = lab.gather(&expected);
            passed += expected.len();
            denied += probes.len() - expected.len();
            for (from, to, probe) in &probes {
                let (wanted, came) = (expected.contains(&probe.number), heard.contains(&probe.number));
                assert_eq!(
                    came,
                    wanted,
                    "round {round}: from {from} to {to}: {probe:?}\n{now:#?}\n{}",
                    run("nft", &["list", "ruleset"])
                );
            }
        }
        println!("{passed} packets passed, {denied} were denied");
        assert!(passed > 500 && denied > 500);
    });
}

pub fn udp(port: u16) -> Ports {
    Ports::In(vec![PortRange { protocol: Protocol::Udp, first: port, last: port }])
}

/// Two endpoints and more; to `manx1` only UDP 53 may be sent.
pub fn small(lab: &Lab) -> Ruleset {
    let id = PolicyId { tier: Tier::Network, name: "shop/dns".into(), direction: Direction::Ingress };
    let rule = Rule { action: Action::Accept, peer: Peer::Any, ports: udp(53), index: 0, name: None };
    let mut ruleset = Ruleset { node: lab.node.addresses.into(), ..Ruleset::default() };
    let network = Some(Network { policies: vec![id.clone()], otherwise: Mode::Enforce });
    let closed = Arc::new(Chain { network, ..Chain::default() });
    ruleset.policies.insert(id, Arc::new(Policy { mode: Mode::Enforce, rules: vec![rule] }));
    for (number, pod) in lab.pods.iter().enumerate() {
        let endpoint = Endpoint {
            pod: format!("shop/pod-{number}").into(),
            addresses: pod.addresses.into(),
            spoofing: Spoofing::Denied,
            ingress: if number == 1 { Arc::clone(&closed) } else { Arc::default() },
            egress: Arc::default(),
        };
        ruleset.endpoints.insert(Ifname(format!("manx{number}").into()), Arc::new(endpoint));
    }
    ruleset
}

pub fn probe(from: &Host, to: &Host, number: u32, source_port: u16, port: u16) -> Probe {
    let family = Family::ALL[number as usize % 2];
    let (source, destination) = (from.address(family), to.address(family));
    Probe { number, source, destination, protocol: 17, source_port, port }
}

#[test]
#[ignore = "needs root: make test"]
fn nothing_opens_or_closes_for_a_moment_while_rulesets_change_and_agents_restart() {
    in_a_namespace(|| {
        let lab = Lab::new(4);
        let base = small(&lab);
        let mut driver = Driver::start(Connections::End).unwrap();
        wait(driver.update(step(&Ruleset::default(), &base))).unwrap();
        driver.sweep();
        eventually("swept", || driver.status().swept && driver.status().in_force);
        let mut dice = Dice(3);
        let (mut now, mut number, mut expected, mut heard) =
            (base.clone(), 10u32, BTreeSet::new(), BTreeSet::new());
        let end = Instant::now() + Duration::from_secs(6);
        let mut changes = 0;
        while Instant::now() < end {
            // Everything else changes: other endpoints, policies, sets, the policy's own chain rewritten.
            let mut next = base.clone();
            let other = a_ruleset(&mut dice);
            next.sets = other.sets;
            next.policies.extend(other.policies.clone());
            for (name, endpoint) in other.endpoints {
                if !["manx0", "manx1"].contains(&&*name.0) {
                    next.endpoints.insert(name, endpoint);
                }
            }
            let dns = next.policies.iter_mut().find(|(id, _)| &*id.name == "shop/dns").unwrap();
            let extra = Rule { ports: udp(1000 + dice.roll(9) as u16), ..dns.1.rules[0].clone() };
            let mut rules = vec![dns.1.rules[0].clone(), extra];
            if dice.roll(2) == 0 {
                rules.reverse();
            }
            *dns.1 = Arc::new(Policy { mode: Mode::Enforce, rules });
            let done = if changes % 5 == 4 {
                drop(driver);
                driver = Driver::start(Connections::End).unwrap();
                let done = driver.update(step(&Ruleset::default(), &next));
                driver.sweep();
                done
            } else {
                driver.update(step(&now, &next))
            };
            changes += 1;
            now = next;
            let sent = Instant::now();
            while sent.elapsed() < Duration::from_millis(20) {
                let mut packets = Vec::new();
                for _ in 0..20 {
                    number += 1;
                    // Every packet opens a connection of its own; every third may not.
                    let port = if number % 3 == 0 { 54 } else { 53 };
                    if port == 53 {
                        expected.insert(number);
                    }
                    packets.push(probe(
                        &lab.pods[0],
                        &lab.pods[1],
                        number,
                        (number % 65_000) as u16 + 100,
                        port,
                    ));
                }
                lab.pods[0].send(packets);
                heard.extend(lab.pods[1].heard());
            }
            wait(done).unwrap();
        }
        heard.extend(lab.gather(&expected.difference(&heard).copied().collect()));
        println!("{changes} changes, {} packets, {} of them allowed", number - 10, expected.len());
        let lost: Vec<_> = expected.difference(&heard).collect();
        let leaked: Vec<_> = heard.difference(&expected).collect();
        assert!(lost.is_empty() && leaked.is_empty(), "{} lost, {} leaked", lost.len(), leaked.len());
        assert!(changes > 50, "{changes}");
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_connection_ends_when_a_policy_forbids_it_unless_it_is_to_be_kept() {
    for connections in [Connections::End, Connections::Keep] {
        in_a_namespace(|| {
            let lab = Lab::new(2);
            let before = small(&lab);
            let driver = Driver::start(connections).unwrap();
            wait(driver.update(step(&Ruleset::default(), &before))).unwrap();
            let mut number = 0;
            let mut gets_through = || {
                number += 2;
                lab.pods[0].send(vec![probe(&lab.pods[0], &lab.pods[1], number, 4000, 53)]);
                let end = Instant::now() + Duration::from_millis(200);
                while Instant::now() < end {
                    if lab.pods[1].heard().contains(&number) {
                        return true;
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                false
            };
            assert!(gets_through());
            // An answer, or it is no connection for long.
            lab.pods[1].send(vec![Probe { port: 4000, ..probe(&lab.pods[1], &lab.pods[0], 2, 53, 0) }]);
            let mut after = before.clone();
            let policy = after.policies.values_mut().next().unwrap();
            *policy = Arc::new(Policy { mode: Mode::Enforce, rules: vec![] });
            wait(driver.update(step(&before, &after))).unwrap();
            match connections {
                Connections::End => {
                    let end = Instant::now() + Duration::from_secs(5);
                    while gets_through() {
                        assert!(Instant::now() < end, "the connection goes on");
                    }
                    assert_eq!(driver.status().ended, 1);
                }
                Connections::Keep => {
                    assert!((0..20).all(|_| gets_through()));
                    assert_eq!(driver.status().ended, 0);
                }
            }
        });
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_denied_packet_is_told_with_what_denied_it() {
    in_a_namespace(|| {
        let lab = Lab::new(3);
        let mut ruleset = small(&lab);
        let id = PolicyId { tier: Tier::Admin, name: "no-ssh".into(), direction: Direction::Egress };
        let rule =
            |action, port, index| Rule { action, peer: Peer::Any, ports: udp(port), index, name: None };
        let rules = vec![rule(Action::Accept, 21, 0), rule(Action::Deny, 22, 1)];
        ruleset.policies.insert(id.clone(), Arc::new(Policy { mode: Mode::Enforce, rules: rules.clone() }));
        let audited = PolicyId { name: "maybe".into(), ..id.clone() };
        let audit = Policy { mode: Mode::Audit, rules: vec![rule(Action::Deny, 23, 0)] };
        ruleset.policies.insert(audited.clone(), Arc::new(audit));
        let egress = Arc::new(Chain { admin: vec![id.clone(), audited.clone()], ..Chain::default() });
        let name = Ifname("manx0".into());
        let endpoint = Endpoint { egress, ..(*ruleset.endpoints[&name]).clone() };
        ruleset.endpoints.insert(name, Arc::new(endpoint));

        let driver = Driver::start(Connections::End).unwrap();
        let mut denials = driver.denials();
        wait(driver.update(step(&Ruleset::default(), &ruleset))).unwrap();
        let (one, two, three) = (&lab.pods[0], &lab.pods[1], &lab.pods[2]);
        let mut told = |probe: Probe| {
            lab.pods[0].send(vec![probe.clone()]);
            let end = Instant::now() + Duration::from_secs(5);
            loop {
                match denials.try_recv() {
                    Ok(denial) => {
                        assert_eq!((denial.source, denial.destination), (probe.source, probe.destination));
                        assert_eq!((denial.protocol, denial.destination_port), (17, Some(probe.port)));
                        return denial;
                    }
                    Err(error) => assert!(Instant::now() < end, "{error}: {probe:?}"),
                }
                thread::sleep(Duration::from_millis(5));
            }
        };
        for number in [2, 3] {
            let denial = told(probe(one, three, number, 1000, 22));
            assert_eq!(
                (denial.verdict, denial.policy.clone(), denial.rule),
                (Denied::Dropped, Some(id.clone()), Some(1))
            );
            assert_eq!(denial.source_pod.as_deref(), Some("shop/pod-0"));
            assert_eq!(denial.destination_pod.as_deref(), Some("shop/pod-2"));
            let denial = told(probe(one, two, number, 1001, 5353));
            assert_eq!((denial.verdict, denial.direction), (Denied::Dropped, Some(Direction::Ingress)));
            assert_eq!(denial.isolated_by.iter().map(|id| &*id.name).collect::<Vec<_>>(), ["shop/dns"]);
            let denial = told(probe(one, three, number, 1002, 23));
            assert_eq!((denial.verdict, denial.policy.clone()), (Denied::Audited, Some(audited.clone())));
        }
        // An address that is not its own, added by the pod itself.
        let spoofed: IpAddr = "10.7.7.7".parse().unwrap();
        one.run(|_| run("ip", &["address", "add", "10.7.7.7/32", "dev", "eth0"]));
        let denial = told(Probe { source: spoofed, ..probe(one, three, 2, 1003, 99) });
        assert_eq!(denial.verdict, Denied::Spoofed);
        let counters = wait(driver.counters()).unwrap();
        let packets = |name: &str| counters.get(name).map(|counter| counter.packets);
        assert_eq!(packets("deny/egress/admin/no-ssh"), Some(2));
        assert_eq!(packets("audit/egress/admin/maybe"), Some(2));
        assert_eq!(packets("spoofed"), Some(1));
        let text = wait(driver.dump(true)).unwrap();
        assert!(text.contains("counter deny/egress/admin/no-ssh {\n\t\tpackets 2 bytes"), "{text}");
        assert_eq!(wait(driver.update(Delta::default())), Ok(()));
    });
}
