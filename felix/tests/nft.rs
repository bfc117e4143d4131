//! The nf_tables encoder against a real kernel and beside the `nft` program, in network namespaces of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use manx_bgp::types::Family;
use manx_felix::acl::nft::{
    BaseChain, Batch, Chain, ChainType, CmpOp, CommitError, Element, Event, Field, Hook, Key, Monitor, Nft,
    Part, Reject, Rule, Set, Statement, Table, Text, Type, Verdict,
};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a new network namespace, which ends with its thread.
fn in_a_namespace(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// What `nft` prints, given `input`; panics when it fails.
fn nft(words: &str, input: &str) -> String {
    let mut child = Command::new("nft")
        .args(words.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "nft {words}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Where `nft` breaks lines within a set's elements is its own affair; in what order it lists chains and sets, too.
fn normal(text: &str) -> BTreeSet<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace(" chain ", "\nchain ")
        .replace(" set ", "\nset ")
        .replace(" map ", "\nmap ")
        .replace(" counter ", "\ncounter ")
        .lines()
        .map(|line| line.trim_end_matches([' ', '}']).to_owned())
        .collect()
}

fn key(parts: &[&[u8]]) -> Key {
    let mut key = Key::new();
    for part in parts {
        key.extend_from_slice(part);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}

fn octets(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn name(name: &str) -> Vec<u8> {
    let mut value = name.as_bytes().to_vec();
    value.resize(16, 0);
    value
}

fn plain(key: Key) -> Element {
    Element::new(key)
}

fn range(first: Key, last: Key) -> Element {
    Element::new(first).until(last)
}

fn leads(key: Key, verdict: Verdict) -> Element {
    Element::new(key).to(verdict)
}

fn eq(field: Field, value: impl Into<Vec<u8>>) -> Statement {
    Statement::Cmp { field, op: CmpOp::Eq, value: value.into() }
}

fn network(field: Field, op: CmpOp, network: &str) -> Statement {
    Statement::Network { field, op, network: network.parse().unwrap() }
}

fn within(fields: &[Field], set: &str) -> Statement {
    Statement::Lookup { fields: fields.to_vec(), set: set.to_owned(), inverted: false }
}

fn vmap(fields: &[Field], map: &str) -> Statement {
    Statement::Vmap { fields: fields.to_vec(), map: map.to_owned() }
}

/// Every construct this crate can write.
fn everything() -> Table {
    use Family::{Ipv4, Ipv6};
    let accept = || Statement::Verdict(Verdict::Accept);
    let sets = [
        (
            "addresses4-1",
            Set { comment: Some("pods app=web".to_owned()), ..Set::of([Type::Ipv4Addr]) },
            vec![plain(key(&[&[10, 0, 0, 1]])), plain(key(&[&[10, 0, 0, 2]]))],
        ),
        ("addresses6-1", Set::of([Type::Ipv6Addr]), vec![plain(key(&[&octets("fd00::1")]))]),
        (
            "networks4-1",
            Set::of_ranges([Type::Ipv4Addr]),
            vec![
                range(key(&[&[0, 0, 0, 0]]), key(&[&[9, 255, 255, 255]])),
                range(key(&[&[10, 0, 0, 0]]), key(&[&[10, 0, 0, 0]])),
                range(key(&[&[10, 0, 0, 5]]), key(&[&[10, 0, 0, 77]])),
                range(key(&[&[192, 0, 0, 0]]), key(&[&[255, 255, 255, 255]])),
            ],
        ),
        (
            "networks6-1",
            Set::of_ranges([Type::Ipv6Addr]),
            vec![range(key(&[&octets("fd00::")]), key(&[&octets("fd00::ffff:ffff:ffff:ffff")]))],
        ),
        (
            "ports4-1",
            Set::of([Type::Ipv4Addr, Type::InetProto, Type::InetService]),
            vec![plain(key(&[&[10, 0, 0, 1], &[6], &80u16.to_be_bytes()]))],
        ),
        (
            "ports6-1",
            Set::of([Type::Ipv6Addr, Type::InetProto, Type::InetService]),
            vec![plain(key(&[&octets("fd00::1"), &[132], &53u16.to_be_bytes()]))],
        ),
        (
            "services",
            Set::of_ranges([Type::InetService, Type::InetProto]),
            vec![
                range(key(&[&80u16.to_be_bytes(), &[6]]), key(&[&80u16.to_be_bytes(), &[6]])),
                range(key(&[&90u16.to_be_bytes(), &[17]]), key(&[&99u16.to_be_bytes(), &[17]])),
            ],
        ),
        (
            "numbered4",
            Set::of([Type::Mark, Type::Ipv4Addr]),
            [1u32, 2].map(|number| plain(key(&[&number.to_ne_bytes(), &[10, 0, 0, 1]]))).to_vec(),
        ),
        (
            "numbered6",
            Set::of([Type::Mark, Type::Ipv6Addr, Type::InetProto, Type::InetService]),
            vec![plain(key(&[
                &0x1234_5678u32.to_ne_bytes(),
                &octets("fd00::1"),
                &[6],
                &80u16.to_be_bytes(),
            ]))],
        ),
        (
            "numbers",
            Set::of([Type::Mark]),
            vec![
                plain(key(&[&1u32.to_ne_bytes()])).with_comment("pods app=\"web\""),
                plain(key(&[&2u32.to_ne_bytes()])).with_comment(&"long ".repeat(50)),
                plain(key(&[&3u32.to_ne_bytes()])),
            ],
        ),
        (
            "commented",
            Set::to_verdicts([Type::IfName]),
            vec![leads(key(&[&name("manx1")]), Verdict::Jump("leaf".to_owned())).with_comment("shop/web")],
        ),
        ("names", Set::of([Type::IfName]), vec![plain(key(&[&name("manx1")]))]),
        (
            "own4",
            Set::of([Type::IfName, Type::Ipv4Addr]),
            vec![plain(key(&[&name("manx1"), &[10, 0, 0, 1]]))],
        ),
        (
            "own6",
            Set::of([Type::IfName, Type::Ipv6Addr]),
            vec![plain(key(&[&name("manx1"), &octets("fd00::1")]))],
        ),
        (
            "dispatch",
            Set::to_verdicts([Type::IfName]),
            vec![
                leads(key(&[&name("manx1")]), Verdict::Jump("leaf".to_owned())),
                leads(key(&[&name("manx2")]), Verdict::Goto("leaf".to_owned())),
                leads(key(&[&name("manx3")]), Verdict::Accept),
                leads(key(&[&name("manx4")]), Verdict::Continue),
            ],
        ),
    ];
    let rules = vec![
        Rule::new([Statement::CtState(6), accept()]),
        Rule::new([eq(Field::NfProto, [2]), Statement::Verdict(Verdict::Return)]),
        Rule::new([eq(Field::L4Proto, [132]), accept()]),
        Rule::new([eq(Field::L4Proto, [6]), accept()]),
        Rule::new([eq(Field::IifName, name("manx1")), accept()]),
        Rule::new([eq(Field::OifName, "manx"), Statement::Verdict(Verdict::Drop)]),
        Rule::new([Statement::Cmp { field: Field::IifName, op: CmpOp::Neq, value: name("lo") }, accept()]),
        Rule::new([within(&[Field::Saddr(Ipv4)], "addresses4-1"), accept()]).comment("rule 1 of shop/web"),
        Rule::new([within(&[Field::Daddr(Ipv6)], "addresses6-1"), accept()]),
        Rule::new([within(&[Field::Number(1), Field::Saddr(Ipv4)], "numbered4"), accept()]),
        Rule::new([
            within(
                &[Field::Number(0x1234_5678), Field::Daddr(Ipv6), Field::L4Proto, Field::ThDport],
                "numbered6",
            ),
            accept(),
        ]),
        Rule::new([
            within(&[Field::Saddr(Ipv4)], "networks4-1"),
            eq(Field::Dport(6), 80u16.to_be_bytes()),
            accept(),
        ]),
        Rule::new([
            within(&[Field::Daddr(Ipv6)], "networks6-1"),
            Statement::Range {
                field: Field::Dport(17),
                from: 80u16.to_be_bytes().to_vec(),
                to: 90u16.to_be_bytes().to_vec(),
            },
            accept(),
        ]),
        Rule::new([eq(Field::Dport(132), 80u16.to_be_bytes()), accept()]),
        Rule::new([within(&[Field::Daddr(Ipv4), Field::L4Proto, Field::ThDport], "ports4-1"), accept()]),
        Rule::new([within(&[Field::Daddr(Ipv6), Field::L4Proto, Field::ThDport], "ports6-1"), accept()]),
        Rule::new([within(&[Field::ThDport, Field::L4Proto], "services"), accept()]),
        Rule::new([
            within(&[Field::Saddr(Ipv4)], "addresses4-1"),
            within(&[Field::ThDport, Field::L4Proto], "services"),
            accept(),
        ]),
        Rule::new([
            within(&[Field::Saddr(Ipv4)], "addresses4-1"),
            Statement::Lookup {
                fields: vec![Field::Daddr(Ipv4)],
                set: "networks4-1".to_owned(),
                inverted: true,
            },
            accept(),
        ]),
        Rule::new([within(&[Field::IifName, Field::Saddr(Ipv4)], "own4"), accept()]),
        Rule::new([within(&[Field::IifName, Field::Saddr(Ipv6)], "own6"), accept()]),
        Rule::new([
            Statement::Range { field: Field::IcmpType(Ipv6), from: vec![133], to: vec![137] },
            accept(),
        ]),
        Rule::new([eq(Field::IcmpType(Ipv6), [135]), accept()]),
        Rule::new([eq(Field::IcmpType(Ipv4), [8]), accept()]),
        Rule::new([network(Field::Saddr(Ipv6), CmpOp::Eq, "fe80::/10"), accept()]),
        Rule::new([network(Field::Saddr(Ipv6), CmpOp::Eq, "::/128"), accept()]),
        Rule::new([network(Field::Daddr(Ipv4), CmpOp::Neq, "10.1.0.0/16"), accept()]),
        Rule::new([network(Field::Daddr(Ipv4), CmpOp::Eq, "10.1.0.0/21"), accept()]),
        Rule::new([eq(Field::FibDaddrType, 2u32.to_ne_bytes()), accept()]),
        Rule::new([eq(Field::FibSaddrType, 2u32.to_ne_bytes()), accept()]),
        Rule::new([eq(Field::Mark, 4u32.to_ne_bytes()), accept()]),
        Rule::new([Statement::MarkIs { mask: 4, value: 4 }, accept()]),
        Rule::new([Statement::MarkOr(4)]),
        Rule::new([
            Statement::Limit { rate: 10, unit: 1, burst: 20 },
            Statement::Log { prefix: "deny 3 ingress-network/shop/web".to_owned(), group: 77, snaplen: 128 },
        ]),
        Rule::new([
            Statement::Limit { rate: 3, unit: 60, burst: 5 },
            Statement::Log { prefix: "x".to_owned(), group: 7, snaplen: 0 },
        ]),
        Rule::new([Statement::CounterRef("deny/shop".to_owned()), Statement::Verdict(Verdict::Drop)]),
        Rule::new([Statement::Reject(Reject::AdminProhibited)]),
        Rule::new([eq(Field::L4Proto, [6]), Statement::Reject(Reject::TcpReset)]),
        Rule::new([Statement::Counter, Statement::Verdict(Verdict::Jump("leaf".to_owned()))]),
        Rule::new([vmap(&[Field::OifName], "dispatch")]),
        Rule::new([Statement::Verdict(Verdict::Goto("leaf".to_owned()))]),
    ];
    let base = |kind, hook, priority, rules| Chain { base: Some(BaseChain { kind, hook, priority }), rules };
    let masquerade = vec![
        Rule::new([within(&[Field::Saddr(Ipv4)], "addresses4-1"), Statement::Masquerade]),
        Rule::new([
            within(&[Field::Saddr(Ipv6)], "addresses6-1"),
            Statement::Snat("fd00::9".parse().unwrap()),
        ]),
    ];
    let notrack =
        vec![Rule::new([network(Field::Saddr(Ipv4), CmpOp::Eq, "10.0.0.1/32"), Statement::Notrack])];
    let dispatch = vec![Rule::new([vmap(&[Field::IifName], "dispatch")])];
    let to = |chain: &str| vec![Rule::new([Statement::Verdict(Verdict::Jump(chain.to_owned()))])];
    let chains = [
        ("leaf", Chain::default()),
        ("rules", Chain { base: None, rules }),
        ("before", base(ChainType::Filter, Hook::Prerouting, -300, notrack)),
        ("through", base(ChainType::Filter, Hook::Forward, 0, dispatch)),
        ("in", base(ChainType::Filter, Hook::Input, 5, to("leaf"))),
        ("out", base(ChainType::Filter, Hook::Output, -5, vec![])),
        ("after", base(ChainType::Nat, Hook::Postrouting, 100, masquerade)),
        ("late", base(ChainType::Filter, Hook::Postrouting, 70, vec![])),
    ];
    Table {
        name: "manx".to_owned(),
        counters: ["deny/shop".to_owned()].into(),
        sets: sets
            .into_iter()
            .map(|(name, set, elements)| (name.to_owned(), (set, elements.into_iter().collect())))
            .collect(),
        chains: chains.into_iter().map(|(name, chain)| (name.to_owned(), chain)).collect(),
    }
}

fn create(table: &Table) -> Batch {
    let mut batch = Batch::new(&table.name);
    batch.add_table();
    table.counters.iter().for_each(|counter| batch.add_counter(counter));
    for (name, chain) in &table.chains {
        batch.add_chain(name, chain.base.as_ref());
    }
    for (name, (set, elements)) in &table.sets {
        batch.add_set(name, set);
        batch.add_elements(name, set, elements);
    }
    for (name, chain) in &table.chains {
        chain.rules.iter().for_each(|rule| batch.add_rule(name, &rule.body()));
    }
    batch
}

fn text(table: &Table) -> String {
    Text { table, counters: None, elements: true }.to_string()
}

#[test]
#[ignore = "needs root: make test"]
fn what_nft_lists_is_what_the_text_says() {
    in_a_namespace(|| {
        let table = everything();
        Nft::open().unwrap().commit(&create(&table)).unwrap();
        let (listed, said) = (normal(&nft("-s list ruleset", "")), normal(&text(&table)));
        let missing: Vec<_> = said.difference(&listed).collect();
        let extra: Vec<_> = listed.difference(&said).collect();
        assert!(missing.is_empty() && extra.is_empty(), "not listed: {missing:#?}\nlisted: {extra:#?}");
    });
}

#[test]
#[ignore = "needs root: make test"]
fn nft_makes_the_same_instructions_of_the_text() {
    in_a_namespace(|| {
        let table = everything();
        let debug = nft("--debug=netlink -c -f -", &text(&table));
        let mut rules = Vec::new();
        for line in debug.lines() {
            if line.starts_with("  [ ") {
                // nft turns a single octet of a concatenation of ranges round, which does nothing.
                if !line.contains("byteorder") {
                    let rule: &mut Vec<String> = rules.last_mut().unwrap();
                    rule.push(line.trim().to_owned());
                }
            } else if line.starts_with("inet manx ") {
                rules.push(Vec::new());
            }
        }
        let ours: Vec<Vec<String>> = table
            .chains
            .values()
            .flat_map(|chain| &chain.rules)
            .map(|rule| rule.exprs().iter().map(ToString::to_string).collect())
            .collect();
        assert_eq!(rules.len(), ours.len(), "{debug}");
        for (nft, ours) in rules.iter().zip(&ours) {
            assert_eq!(nft, ours);
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_table_is_read_back_as_it_was_written_by_either() {
    let table = everything();
    let check = |nft: &mut Nft| {
        let read = nft.read_table("manx").unwrap().unwrap();
        assert_eq!(read.counters.keys().collect::<Vec<_>>(), table.counters.iter().collect::<Vec<_>>());
        assert_eq!(read.sets.len(), table.sets.len());
        for (name, (set, elements)) in &table.sets {
            let (found, held) = read.sets[name].as_ref().unwrap();
            assert!(found.is_like(set), "{name}: {found:?}");
            assert_eq!(held, elements, "{name}");
        }
        assert_eq!(read.chains.len(), table.chains.len());
        for (name, chain) in &table.chains {
            assert_eq!((read.chains[name].base, read.chains[name].is_strange), (chain.base, false), "{name}");
        }
        read
    };
    in_a_namespace(|| {
        let mut nft = Nft::open().unwrap();
        assert!(nft.read_table("manx").unwrap().is_none());
        nft.commit(&create(&table)).unwrap();
        let read = check(&mut nft);
        for (name, chain) in &table.chains {
            let bodies: Vec<_> = chain.rules.iter().map(Rule::body).collect();
            assert_eq!(read.chains[name].rules, bodies, "{name}");
        }
    });
    in_a_namespace(|| {
        nft("-f -", &text(&table));
        check(&mut Nft::open().unwrap());
    });
}

#[test]
#[ignore = "needs root: make test"]
fn what_was_made_can_be_unmade() {
    in_a_namespace(|| {
        let table = everything();
        let mut nft = Nft::open().unwrap();
        nft.commit(&create(&table)).unwrap();
        let mut batch = Batch::new("manx");
        for name in table.chains.keys() {
            batch.flush_chain(name);
        }
        for (name, (set, elements)) in &table.sets {
            batch.delete_elements(name, set, elements);
            batch.delete_set(name);
        }
        table.chains.keys().for_each(|name| batch.delete_chain(name));
        table.counters.iter().for_each(|name| batch.delete_counter(name));
        assert!(batch.deletes());
        nft.commit(&batch).unwrap();
        let left = nft.read_table("manx").unwrap().unwrap();
        assert!(left.chains.is_empty() && left.sets.is_empty() && left.counters.is_empty(), "{left:?}");
        let mut batch = Batch::new("manx");
        batch.delete_table();
        nft.commit(&batch).unwrap();
        assert!(nft.read_table("manx").unwrap().is_none());
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_refused_transaction_names_the_part_and_changes_nothing() {
    in_a_namespace(|| {
        let mut nft = Nft::open().unwrap();
        nft.commit(&create(&everything())).unwrap();
        let before = nft.generation().unwrap();
        let mut batch = Batch::new("manx");
        batch.add_chain("new", None);
        batch.add_rule("new", &Rule::new([Statement::Verdict(Verdict::Jump("nowhere".to_owned()))]).body());
        batch.add_chain("newer", None);
        match nft.commit(&batch) {
            Err(CommitError::Refused { part: Part::Rule(chain), .. }) => assert_eq!(chain, "new"),
            other => panic!("{other:?}"),
        }
        // Chains in a circle are found when the whole is looked at.
        let mut batch = Batch::new("manx");
        batch.add_rule("leaf", &Rule::new([vmap(&[Field::IifName], "dispatch")]).body());
        assert!(matches!(nft.commit(&batch), Err(CommitError::Refused { .. })));
        assert_eq!(nft.generation().unwrap(), before);
        assert!(!nft.read_table("manx").unwrap().unwrap().chains.contains_key("new"));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_hundred_thousand_elements_come_and_go_in_one_transaction() {
    in_a_namespace(|| {
        let mut nft = Nft::open().unwrap();
        let set = Set::of([Type::Ipv4Addr]);
        let elements: BTreeSet<_> =
            (0..100_000u32).map(|n| plain(key(&[&(0x0a00_0000 + n).to_be_bytes()]))).collect();
        let mut batch = Batch::new("manx");
        batch.add_table();
        batch.add_set("many", &set);
        batch.add_elements("many", &set, &elements);
        nft.commit(&batch).unwrap();
        // While the kernel still resizes a hash table, a reader may miss some of it.
        let mut held = || nft.read_table("manx").unwrap().unwrap().sets["many"].as_ref().unwrap().1.clone();
        let end = Instant::now() + Duration::from_secs(10);
        while held() != elements {
            assert!(Instant::now() < end, "{} of 100,000 elements", held().len());
        }
        let mut batch = Batch::new("manx");
        batch.delete_elements("many", &set, &elements);
        nft.commit(&batch).unwrap();
        assert!(nft.read_table("manx").unwrap().unwrap().sets["many"].as_ref().unwrap().1.is_empty());
    });
}

#[test]
#[ignore = "needs root: make test"]
fn only_what_others_do_to_the_table_is_told() {
    in_a_namespace(|| {
        let mut ours = Nft::open().unwrap();
        let mut monitor = Monitor::open("manx", ours.port(), Duration::from_millis(200)).unwrap();
        ours.commit(&create(&everything())).unwrap();
        nft("add table ip other", "");
        nft("add chain ip other x", "");
        assert_eq!(monitor.wait().unwrap(), None);
        for change in ["add element inet manx addresses4-1 { 10.9.9.9 }", "delete table inet manx"] {
            nft(change, "");
            assert_eq!(monitor.wait().unwrap(), Some(Event::Changed), "{change}");
            while monitor.wait().unwrap().is_some() {}
        }
    });
}
