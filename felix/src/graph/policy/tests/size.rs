//! A large cluster: what one change costs.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::super::*;
use super::world::Dice;
use crate::acl::ruleset::{Action, PortRange, Protocol, Ruleset};
use crate::graph::{Requirement, Selector};
use crate::model::labels::Interner;
use crate::model::policy::{Peer, PodSelector, Port, Rule};

/// Pods of a namespace, and policies.
const PODS: u32 = 100;
const POLICIES: usize = 10;

/// Of all pods these are on this node, as a kubelet takes them: 110 by default, some have 250.
const HERE: u32 = 250;

fn selector(pairs: &[(&str, &str)]) -> Selector {
    let requirement =
        |(key, value): &(&str, &str)| Requirement::In((*key).into(), [*value].into_iter().collect());
    pairs.iter().map(requirement).collect()
}

fn pod(interner: &mut Interner, number: u32, app: u32) -> (Arc<str>, Pod) {
    let namespace = number / PODS;
    let labels = [
        ("app".to_owned(), format!("app{app}")),
        ("pod-template-hash".to_owned(), format!("{:x}", namespace * 31 + app)),
    ];
    let pod = Pod {
        namespace: interner.string(&format!("ns{namespace}")),
        node: interner.string(if number.is_multiple_of(PODS) { "n1" } else { "n2" }),
        labels: interner.labels(&labels.into()),
        addresses: [Ipv4Addr::from_bits(0x0a00_0000 + number).into()].into_iter().collect(),
        ports: Arc::new([]),
        spoofing: Spoofing::Denied,
        created: 0,
        uid: "".into(),
    };
    (format!("ns{namespace}/pod{number}").into(), pod)
}

/// Each lets in one app of the own namespace, or of the namespaces of one team.
fn policy(namespace: u32, number: usize) -> Arc<Policy> {
    let peers = match number % 2 {
        0 => Namespaces::Named(format!("ns{namespace}").into()),
        _ => Namespaces::Labelled(selector(&[("team", &format!("team{}", namespace % 100))])),
    };
    let peer =
        Peer::Pods(PodSelector { namespaces: peers, pods: selector(&[("app", &format!("app{number}"))]) });
    let port = Port::Number(PortRange {
        protocol: Protocol::Tcp,
        first: 8000 + number as u16,
        last: 8000 + number as u16,
    });
    let rule = Rule { action: Action::Accept, peers: Some(vec![peer]), ports: Some(vec![port]), name: None };
    Arc::new(Policy {
        tier: Tier::Network,
        priority: 0,
        mode: Mode::Enforce,
        subject: PodSelector {
            namespaces: Namespaces::Named(format!("ns{namespace}").into()),
            pods: Selector::default(),
        },
        ingress: Some(vec![rule.clone()]),
        egress: Some(vec![rule]),
        complaints: Vec::new(),
        uid: "".into(),
        version: None,
    })
}

fn name(namespace: u32, number: usize) -> PolicyName {
    PolicyName::Network(format!("ns{namespace}/policy{number}").into())
}

/// The middle and the slowest of a hundred.
fn measure(what: &str, mut change: impl FnMut(u32)) -> Duration {
    let mut took: Vec<Duration> = (0..100)
        .map(|round| {
            let start = Instant::now();
            change(round);
            start.elapsed()
        })
        .collect();
    took.sort_unstable();
    println!("{what:<60} p50 {:>10.1?}  p99 {:>10.1?}", took[50], took[98]);
    took[50]
}

/// `MANX_POLICY_PODS=100000 cargo test --release -p manx-felix --lib what_one_change_costs -- --nocapture`
#[test]
fn what_one_change_costs_is_not_what_the_cluster_weighs() {
    let pods =
        std::env::var("MANX_POLICY_PODS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000_u32);
    let (mut policies, mut interner) = (Policies::new("n1"), Interner::default());
    let start = Instant::now();
    for namespace in 0..pods / PODS {
        let labels = [("team".to_owned(), format!("team{}", namespace % 100))].into();
        let model = Namespace { labels: interner.labels(&labels), ..Namespace::default() };
        policies.apply(PolicyInput::Namespace(format!("ns{namespace}").into(), Some(model)));
    }
    for number in 0..pods {
        let (name, pod) = pod(&mut interner, number, number % 10);
        policies.apply(PolicyInput::Pod(name, Some(pod)));
    }
    for namespace in 0..pods / PODS {
        for number in 0..POLICIES {
            policies.apply(PolicyInput::Policy(name(namespace, number), Some(policy(namespace, number))));
        }
    }
    for number in (0..pods).step_by(PODS as usize).take(HERE as usize) {
        let (pod, _) = pod(&mut interner, number, 0);
        let addresses = [IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + number))].into();
        let attached = Attached { pod: Some(pod), uid: "".into(), addresses, restored: false };
        policies.apply(PolicyInput::Endpoint(Ifname(format!("manx{number}").into()), Some(attached)));
    }
    let mut ruleset = Ruleset::default();
    ruleset.apply(policies.flush());
    let members: usize = ruleset.sets.values().map(|set| set.members.len()).sum();
    println!(
        "{pods} pods, {} policies, {} endpoints: {} compiled, {} sets, {members} members, in {:.0?}",
        policies.policies.len(),
        ruleset.endpoints.len(),
        ruleset.policies.len(),
        ruleset.sets.len(),
        start.elapsed()
    );
    assert!(ruleset.sets.len() > 100 && members > 1000);

    let mut dice = Dice(1);
    let mut biggest = 0;
    measure("a pod's label, anywhere", |round| {
        let (name, pod) = pod(&mut interner, dice.below(pods as usize) as u32, 10 + round % 7);
        policies.apply(PolicyInput::Pod(name, Some(pod)));
        biggest = biggest.max(policies.flush().sets.len());
    });
    assert!((1..=8).contains(&biggest), "a pod is in as many sets as select it: {biggest}");
    measure("a pod of a label set seen before, anywhere", |_| {
        let (name, pod) = pod(&mut interner, dice.below(pods as usize) as u32, 3);
        policies.apply(PolicyInput::Pod(name, Some(pod)));
        let _ = policies.flush();
    });
    measure("a pod here comes and goes", |round| {
        let number = (round % HERE.min(pods / PODS)) * PODS;
        let ifname = Ifname(format!("manx{number}").into());
        let attached = policies.endpoints[&ifname].clone();
        policies.apply(PolicyInput::Endpoint(ifname.clone(), None));
        assert_eq!(policies.flush().endpoints.len(), 1);
        policies.apply(PolicyInput::Endpoint(ifname, Some(attached)));
        assert_eq!(policies.flush().endpoints.len(), 1);
    });
    measure("a policy that selects no pod here", |round| {
        let namespace = pods / PODS + round;
        policies.apply(PolicyInput::Policy(name(namespace, 0), Some(policy(namespace, 1))));
        assert!(policies.flush().is_empty());
    });
    measure("a policy that selects a pod here, with a selector of its own", |round| {
        let mut changed = (*policy(0, 0)).clone();
        let peer = PodSelector {
            namespaces: Namespaces::Labelled(selector(&[("team", &format!("team{round}"))])),
            pods: selector(&[("app", "app5")]),
        };
        changed.ingress = Some(vec![Rule {
            action: Action::Accept,
            peers: Some(vec![Peer::Pods(peer)]),
            ports: None,
            name: None,
        }]);
        policies.apply(PolicyInput::Policy(name(0, 0), Some(Arc::new(changed))));
        assert_eq!(policies.flush().policies.len(), 1);
    });
    measure("a namespace's label", |round| {
        let labels = [("team".to_owned(), format!("team{}", round % 100))].into();
        let model = Namespace { labels: interner.labels(&labels), ..Namespace::default() };
        policies.apply(PolicyInput::Namespace("ns1".into(), Some(model)));
        let _ = policies.flush();
    });
}
