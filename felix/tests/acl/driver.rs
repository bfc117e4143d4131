//! The driver: what is in the kernel is what is wanted, whatever happens.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use manx_bgp::types::Family;
use manx_felix::acl::compile::{self, NUMBERS, Numbers};
use manx_felix::acl::driver::{Connections, Driver};
use manx_felix::acl::nft::{Nft, Rule as NftRule};
use manx_felix::acl::ruleset::{
    Action, Chain, Delta, Direction, Endpoint, Ifname, Members, Mode, Network, Peer, Policy, PolicyId, Ports,
    Rule, Ruleset, Set, SetId, SetKind, Spoofing, Tier,
};

use crate::world::{Dice, a_ruleset, eventually, in_a_namespace, pod_address, run, step, wait};

/// Whether the kernel has just what a ruleset says, read by a socket of its own.
#[track_caller]
fn assert_in_force(ruleset: &Ruleset) {
    let read = Nft::open().unwrap().read_table(compile::TABLE).unwrap().unwrap();
    let (_, numbers) = read.sets[NUMBERS].as_ref().unwrap();
    let wanted = compile::table(ruleset, &Numbers::read(numbers));
    assert_eq!(read.counters.keys().collect::<Vec<_>>(), wanted.counters.iter().collect::<Vec<_>>());
    assert_eq!(read.sets.keys().collect::<Vec<_>>(), wanted.sets.keys().collect::<Vec<_>>());
    for (name, (set, elements)) in &wanted.sets {
        let (found, held) = read.sets[name].as_ref().unwrap();
        assert!(found.is_like(set), "{name}");
        assert_eq!(held, elements, "{name}");
    }
    assert_eq!(read.chains.keys().collect::<Vec<_>>(), wanted.chains.keys().collect::<Vec<_>>());
    for (name, chain) in &wanted.chains {
        let found = &read.chains[name];
        assert_eq!((found.base, found.is_strange), (chain.base, false), "{name}");
        assert_eq!(found.rules, chain.rules.iter().map(NftRule::body).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_kernel_follows_from_any_ruleset_to_any_other() {
    in_a_namespace(|| {
        let mut dice = Dice(0x6d61_6e78);
        let driver = Driver::start(Connections::End).unwrap();
        driver.sweep();
        let mut now = Ruleset::default();
        for round in 0..60 {
            let next = if round % 20 == 19 { Ruleset::default() } else { a_ruleset(&mut dice) };
            let half = if dice.roll(2) == 0 { a_ruleset(&mut dice) } else { now.clone() };
            // Two at once, of which the first is overtaken.
            let first = driver.update(step(&now, &half));
            wait(driver.update(step(&half, &next))).unwrap_or_else(|error| panic!("round {round}: {error}"));
            wait(first).unwrap();
            assert_in_force(&next);
            now = next;
        }
        assert_eq!(driver.status().refused, 0);
        assert_eq!(driver.status().repaired, 0);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_restart_writes_only_what_differs_and_removes_nothing_before_the_sweep() {
    in_a_namespace(|| {
        let mut dice = Dice(77);
        let (one, other) = (a_ruleset(&mut dice), a_ruleset(&mut dice));
        let driver = Driver::start(Connections::End).unwrap();
        wait(driver.update(step(&Ruleset::default(), &one))).unwrap();
        drop(driver);
        assert_in_force(&one);
        let generation = || Nft::open().unwrap().generation().unwrap();

        let before = generation();
        let driver = Driver::start(Connections::End).unwrap();
        wait(driver.update(step(&Ruleset::default(), &one))).unwrap();
        driver.sweep();
        eventually("swept", || driver.status().swept && driver.status().in_force);
        assert_eq!((generation(), driver.status().commits), (before, 0));
        drop(driver);

        let driver = Driver::start(Connections::End).unwrap();
        wait(driver.update(step(&Ruleset::default(), &other))).unwrap();
        let held = Nft::open().unwrap().read_table(compile::TABLE).unwrap().unwrap();
        for name in compile::table(&one, &Numbers::default()).chains.keys() {
            assert!(held.chains.contains_key(name), "{name} went before the sweep");
        }
        driver.sweep();
        let chains = |ruleset| compile::table(ruleset, &Numbers::default()).chains.len();
        let left = || Nft::open().unwrap().read_table(compile::TABLE).unwrap().unwrap().chains.len();
        eventually("what nobody wants has gone", || left() == chains(&other));
        assert_in_force(&other);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn what_someone_else_does_to_the_table_is_put_right_within_a_second() {
    in_a_namespace(|| {
        let mut dice = Dice(5);
        let ruleset = std::iter::repeat_with(|| a_ruleset(&mut dice))
            .find(|ruleset| ruleset.endpoints.len() > 2 && ruleset.sets.len() > 8)
            .unwrap();
        let driver = Driver::start(Connections::End).unwrap();
        wait(driver.update(step(&Ruleset::default(), &ruleset))).unwrap();
        driver.sweep();
        eventually("swept", || driver.status().swept && driver.status().in_force);
        for (repairs, harm) in [
            "delete table inet manx".to_owned(),
            "flush ruleset".to_owned(),
            "flush chain inet manx forward".to_owned(),
            "insert rule inet manx forward accept".to_owned(),
            "delete element inet manx endpoints { \"manx0\" }".to_owned(),
            "add element inet manx addresses4 { 1 . 203.0.113.9 }".to_owned(),
            "add element inet manx addresses4 { 0x00abcdef . 203.0.113.9 }".to_owned(),
            "flush set inet manx addresses4".to_owned(),
            "flush set inet manx numbers".to_owned(),
            "add element inet manx numbers { 0x00abcdef comment \"addresses4-0 mine\" }".to_owned(),
            "add chain inet manx mine { type filter hook input priority -10; policy drop; }".to_owned(),
            // Ours by its name, and of another make.
            "delete table inet manx; add table inet manx; add chain inet manx forward { type filter hook output priority 0; }"
                .to_owned(),
        ]
        .into_iter()
        .enumerate()
        {
            run("nft", &[&harm]);
            let took = eventually(&harm, || driver.status().repaired > repairs as u64 && driver.status().in_force);
            println!("{took:?} after {harm}");
            assert!(took < Duration::from_secs(1), "{took:?} after {harm}");
            assert_in_force(&ruleset);
        }
        // Another's table is his own.
        run("nft", &["add table inet other; add chain inet other x { type filter hook input priority 0; }"]);
        let commits = driver.status().commits;
        wait(driver.update(Delta::default())).unwrap();
        assert_eq!(driver.status().commits, commits);
        assert!(run("nft", &["list", "table", "inet", "other"]).contains("chain x"));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_refused_update_leaves_the_last_one_in_force_and_is_tried_again() {
    in_a_namespace(|| {
        let mut dice = Dice(9);
        let good = a_ruleset(&mut dice);
        let driver = Driver::start(Connections::End).unwrap();
        wait(driver.update(step(&Ruleset::default(), &good))).unwrap();
        driver.sweep();
        eventually("swept", || driver.status().swept && driver.status().in_force);
        // An endpoint of a policy that nobody has told.
        let id = PolicyId { tier: Tier::Network, name: "shop/late".into(), direction: Direction::Ingress };
        let network = Some(Network { policies: vec![id.clone()], otherwise: Mode::Enforce });
        let endpoint = Arc::new(Endpoint {
            pod: "shop/new".into(),
            addresses: [pod_address(77, Family::Ipv4)].into(),
            spoofing: Spoofing::Denied,
            ingress: Arc::new(Chain { network, ..Chain::default() }),
            egress: Arc::default(),
        });
        let mut bad = good.clone();
        bad.endpoints.insert(Ifname("manx99".into()), endpoint);
        let error = wait(driver.update(step(&good, &bad))).unwrap_err();
        assert!(error.to_string().contains("a rule of chain to/"), "{error}");
        assert_in_force(&good);
        eventually("tried again", || driver.status().refused >= 2);
        assert!(driver.status().failing.is_some() && !driver.status().in_force);
        let mut mended = bad.clone();
        mended.policies.insert(id, Arc::new(Policy { mode: Mode::Enforce, rules: vec![] }));
        wait(driver.update(step(&bad, &mended))).unwrap();
        assert_in_force(&mended);
        assert_eq!(driver.status().failing, None);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_pod_of_many_policies_goes_with_all_that_addresses_led_to() {
    in_a_namespace(|| {
        let mut many = Ruleset::default();
        let mut policies = Vec::new();
        for number in 0..40_u8 {
            let id = SetId { kind: SetKind::Addresses, family: Family::Ipv4, digest: number.into() };
            let members = (0..10).map(|member| IpAddr::from([10, 1, number, member])).collect();
            many.sets.insert(id, Set { of: "pods".into(), members: Members::Addresses(members) });
            let rule = Rule {
                action: Action::Accept,
                peer: Peer::In(vec![id]),
                ports: Ports::Any,
                index: 0,
                name: None,
            };
            let name = format!("shop/policy-{number:02}").into();
            let policy = PolicyId { tier: Tier::Network, name, direction: Direction::Ingress };
            many.policies.insert(policy.clone(), Arc::new(Policy { mode: Mode::Enforce, rules: vec![rule] }));
            policies.push(policy);
        }
        let endpoint = |policies: Vec<PolicyId>| {
            let network = (!policies.is_empty()).then_some(Network { policies, otherwise: Mode::Enforce });
            Arc::new(Endpoint {
                pod: "shop/web".into(),
                addresses: [pod_address(1, Family::Ipv4)].into(),
                spoofing: Spoofing::Denied,
                ingress: Arc::new(Chain { network, ..Chain::default() }),
                egress: Arc::default(),
            })
        };
        many.endpoints.insert(Ifname("manx0".into()), endpoint(policies));
        let mut none = Ruleset::default();
        none.endpoints.insert(Ifname("manx0".into()), endpoint(Vec::new()));
        let driver = Driver::start(Connections::End).unwrap();
        driver.sweep();
        let mut now = Ruleset::default();
        for next in [&many, &none, &many, &Ruleset::default()] {
            wait(driver.update(step(&now, next))).unwrap();
            assert_in_force(next);
            now = next.clone();
        }
        assert_eq!(driver.status().refused, 0);
    });
}
