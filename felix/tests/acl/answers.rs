//! What comes back: answers, and ICMP errors about what was sent.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use manx_bgp::types::Family;
use manx_felix::acl::driver::{Connections, Driver};
use manx_felix::acl::ruleset::{
    Action, Chain, Direction, Endpoint, Ifname, Mode, Network, Peer, Policy, PolicyId, Rule, Ruleset, Tier,
};

use crate::lab::{Host, Lab};
use crate::packets::{probe, small, udp};
use crate::probe::{Ears, Error, Probe};
use crate::world::{in_a_namespace, step, wait};

const SOON: Duration = Duration::from_secs(5);

/// `manx1` of [`small`], to which only UDP 53 may be sent, may itself send only to `port`; none: nothing.
fn closed(lab: &Lab, port: Option<u16>) -> Ruleset {
    let mut ruleset = small(lab);
    let id = PolicyId { tier: Tier::Network, name: "shop/out".into(), direction: Direction::Egress };
    let rule =
        |port| Rule { action: Action::Accept, peer: Peer::Any, ports: udp(port), index: 0, name: None };
    let rules = port.map(rule).into_iter().collect();
    ruleset.policies.insert(id.clone(), Arc::new(Policy { mode: Mode::Enforce, rules }));
    let network = Some(Network { policies: vec![id], otherwise: Mode::Enforce });
    let name = Ifname("manx1".into());
    let egress = Arc::new(Chain { network, ..Chain::default() });
    let endpoint = Endpoint { egress, ..(*ruleset.endpoints[&name]).clone() };
    ruleset.endpoints.insert(name, Arc::new(endpoint));
    ruleset
}

/// Waits until a host hears this number; whether it does, and what else it hears.
fn hears(
    host: &Host,
    number: u32,
    listen: fn(&mut Ears) -> Vec<u32>,
    patience: Duration,
) -> (bool, Vec<u32>) {
    let (end, mut heard) = (Instant::now() + patience, Vec::new());
    while !heard.contains(&number) && Instant::now() < end {
        heard.extend(host.run(listen));
        thread::sleep(Duration::from_millis(2));
    }
    (heard.contains(&number), heard)
}

#[test]
#[ignore = "needs root: make test"]
fn an_icmp_error_passes_if_it_is_about_a_connection_that_was_let_through() {
    in_a_namespace(|| {
        let lab = Lab::new(2);
        let driver = Driver::start(Connections::End).unwrap();
        wait(driver.update(step(&Ruleset::default(), &closed(&lab, Some(9999))))).unwrap();
        let (pod, outside) = (&lab.pods[1], &lab.outside);
        let mut number = 2;
        for family in Family::ALL {
            // Port unreachable, and fragmentation needed or packet too big.
            let kinds = if family == Family::Ipv4 { [(3, 3), (3, 4)] } else { [(1, 4), (2, 0)] };
            for (kind, (from, to, port)) in
                kinds.into_iter().flat_map(|kind| [(kind, (pod, outside, 9999)), (kind, (outside, pod, 53))])
            {
                number += 4;
                let (source, destination) = (from.address(family), to.address(family));
                let source_port = 1000 + number as u16;
                let sent = Probe { number, source, destination, protocol: 17, source_port, port };
                from.send(vec![sent.clone()]);
                assert!(hears(to, number, Ears::drain, SOON).0, "{sent:?} is let through");
                // Nobody has sent this; the way is the same, so it would come before the next.
                let never = Probe { number: number + 1, source_port: source_port + 1, ..sent.clone() };
                let errors = [never, sent].map(|about| Error { source: destination, kind, about });
                to.run(move |_| errors.iter().for_each(Error::send));
                let (came, heard) = hears(from, number, Ears::errors, SOON);
                assert!(came, "{kind:?} about what was sent to port {port}");
                assert!(!heard.contains(&(number + 1)), "{kind:?} about what nobody sent to port {port}");
            }
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn answers_pass_whatever_changes_as_long_as_the_connection_may_be_or_is_kept() {
    for (connections, still_allowed) in [(Connections::End, true), (Connections::Keep, false)] {
        in_a_namespace(|| {
            let lab = Lab::new(2);
            let (client, server) = (&lab.pods[0], &lab.pods[1]);
            let before = small(&lab);
            let driver = Driver::start(connections).unwrap();
            wait(driver.update(step(&Ruleset::default(), &before))).unwrap();
            for number in [100, 101] {
                client.send(vec![probe(client, server, number, 4000, 53)]);
                assert!(hears(server, number, Ears::drain, SOON).0);
            }
            // What the server says of itself is denied from now on, and where connections are kept, new ones to it.
            let mut after = closed(&lab, None);
            if !still_allowed {
                for policy in after.policies.values_mut() {
                    *policy = Arc::new(Policy { mode: Mode::Enforce, rules: vec![] });
                }
            }
            wait(driver.update(step(&before, &after))).unwrap();
            for number in [200, 201, 202, 203] {
                let answer = Probe { port: 4000, ..probe(server, client, number, 53, 0) };
                server.send(vec![answer]);
                assert!(hears(client, number, Ears::drain, SOON).0, "{connections:?}: answer {number}");
            }
            for number in [300, 301] {
                let asked = Probe { port: 4000, ..probe(server, client, number, 54, 0) };
                server.send(vec![asked]);
            }
            // The way is the same: behind this they would have come.
            server.send(vec![Probe { port: 4000, ..probe(server, client, 400, 53, 0) }]);
            let (came, heard) = hears(client, 400, Ears::drain, SOON);
            assert!(came && !heard.contains(&300) && !heard.contains(&301), "{heard:?}");
            assert_eq!(driver.status().ended, 0);
        });
    }
}
