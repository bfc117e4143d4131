//! From a ruleset to what nf_tables holds. Pure.
//!
//! ```text
//!   prerouting ─ from an endpoint? ─▶ source: an address it holds, or dropped
//!   forward ── established ─▶ accept
//!           └─ iifname vmap @from ─▶ from/HASH ─▶ policies ─ accepted ─▶ sent ── oifname vmap @to ─▶ to/HASH ─▶ policies
//!           └─ oifname vmap @to ──▶ to/HASH ─▶ policies ─ accepted ─▶ accept
//!   input ──── iifname vmap @from ─▶ as above; sent ends at once: the node is no endpoint
//!   output ─── to an interface of ours that is no endpoint: dropped
//! ```
//!
//! A policy is one chain, jumped to by the chains of all endpoints it selects: `from/HASH` and `to/HASH` name what
//! their endpoints have in common. A policy's chain comes back when no rule matched. What it accepts never comes
//! back: it goes to `sent` or is accepted. A Pass must leave a chain that is not the policy's own, so a policy of the
//! Admin tier that has one is written out for each chain that names it.

mod elements;
mod numbers;
mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manx_bgp::types::Family;
use manx_cni::protocol::HOST_IFNAME_PREFIX;

use self::elements::single;
pub use self::elements::{elements, octets, set};
pub use self::numbers::{Numbers, number, sets, shared};
use self::policy::rules;
pub use self::policy::{is_written_out, policy};
use super::merge::Merged;
use super::nft::{
    BaseChain, Chain as NftChain, ChainType, CmpOp, Element, Field, Hook, Rule as NftRule, Set as NftSet,
    Statement, Table, Type, Verdict,
};
use super::ruleset::{
    Chain, Direction, Endpoint, Ifname, Mode, Policy, PolicyId, Ruleset, Set, Spoofing, Tier,
};

/// Our table, of the family `inet`. No other is touched.
pub const TABLE: &str = "manx";

/// The NFLOG group that denied packets are told to.
pub const NFLOG_GROUP: u16 = 77;

/// Octets of a denied packet that are told: IP and TCP headers with room for extension headers.
const SNAPLEN: u32 = 128;

/// Denials told a second, a rule, and at once. All are counted.
const TOLD_RATE: u64 = 10;
const TOLD_BURST: u32 = 20;

/// Longest name of a policy's chain: prefixes before it stay under the kernel's 255, and NFLOG's 127.
const NAME: usize = 110;

/// `NF_CT_STATE_BIT`: established, related.
const ESTABLISHED: u32 = 2 | 4;

/// Neighbour discovery (RFC 4861): ICMPv6 types.
const ND: (u8, u8) = (133, 137);

/// Sets and maps of the frame.
pub const ENDPOINTS: &str = "endpoints";
const ROUTERS: &str = "routers";
const FROM: &str = "from";
const TO: &str = "to";
const SENT: &str = "sent";
const SOURCE: &str = "source";

/// Which number is whose.
pub const NUMBERS: &str = "numbers";

/// What a part of the ruleset becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Counters by name.
    pub counters: BTreeSet<String>,
    /// Sets and maps that hold no more than the part says.
    pub sets: BTreeMap<String, NftSet>,
    /// Their elements.
    pub elements: BTreeMap<String, BTreeSet<Element>>,
    /// Chains by name.
    pub chains: BTreeMap<String, NftChain>,
}

impl Objects {
    fn rule(&mut self, chain: &str, rule: NftRule) {
        self.chains.entry(chain.to_owned()).or_default().rules.push(rule);
    }

    fn count(&mut self, name: String) -> Statement {
        self.counters.insert(name.clone());
        Statement::CounterRef(name)
    }

    fn extend(&mut self, other: Self) {
        self.counters.extend(other.counters);
        self.sets.extend(other.sets);
        for (set, elements) in other.elements {
            self.elements.entry(set).or_default().extend(elements);
        }
        self.chains.extend(other.chains);
    }
}

/// What is there whatever the ruleset says: the base chains, and the sets that endpoints are put into.
pub fn frame() -> Objects {
    use Family::{Ipv4, Ipv6};
    let mut objects = Objects::default();
    for (name, set) in [
        (ENDPOINTS, NftSet::of([Type::IfName])),
        (ROUTERS, NftSet::of([Type::IfName])),
        (FROM, NftSet::to_verdicts([Type::IfName])),
        (TO, NftSet::to_verdicts([Type::IfName])),
        (own(Ipv4), NftSet::of([Type::IfName, Type::Ipv4Addr])),
        (own(Ipv6), NftSet::of([Type::IfName, Type::Ipv6Addr])),
        (node(Ipv4), NftSet::of([Type::Ipv4Addr])),
        (node(Ipv6), NftSet::of([Type::Ipv6Addr])),
    ] {
        objects.sets.insert(name.to_owned(), set);
        objects.elements.insert(name.to_owned(), BTreeSet::new());
    }
    objects.sets.extend(sets().map(|(name, set)| (name.to_owned(), set)));
    let ours = |field| Statement::Cmp { field, op: CmpOp::Eq, value: HOST_IFNAME_PREFIX.as_bytes().to_vec() };
    let within = |fields: &[Field], set: &str, inverted| Statement::Lookup {
        fields: fields.to_vec(),
        set: set.to_owned(),
        inverted,
    };
    let accept = || Statement::Verdict(Verdict::Accept);
    let drop = || Statement::Verdict(Verdict::Drop);
    let established = || NftRule::new([Statement::CtState(ESTABLISHED), accept()]);
    let discovery = || {
        let field = Field::IcmpType(Ipv6);
        NftRule::new([Statement::Range { field, from: vec![ND.0], to: vec![ND.1] }, accept()])
    };
    let vmap =
        |field, map: &str| NftRule::new([Statement::Vmap { fields: vec![field], map: map.to_owned() }]);
    let to_nobody = |count| {
        NftRule::new([ours(Field::OifName), within(&[Field::OifName], ENDPOINTS, true), count, drop()])
            .comment("an interface of ours, and no endpoint")
    };

    objects.rule(
        "prerouting",
        NftRule::new([ours(Field::IifName), Statement::Verdict(Verdict::Goto(SOURCE.to_owned()))]),
    );
    for family in Family::ALL {
        objects.rule(
            SOURCE,
            NftRule::new([within(&[Field::IifName, Field::Saddr(family)], own(family), false), accept()]),
        );
    }
    // Link-local addresses and, before there is one, the unspecified: neighbour discovery.
    for network in [([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), ([0; 8], 128)] {
        let Ok(network) = ipnetwork::IpNetwork::new(IpAddr::from(network.0), network.1) else { continue };
        let is_local = Statement::Network { field: Field::Saddr(Ipv6), op: CmpOp::Eq, network };
        objects.rule(SOURCE, NftRule::new([is_local, within(&[Field::IifName], ENDPOINTS, false), accept()]));
    }
    objects.rule(SOURCE, NftRule::new([within(&[Field::IifName], ROUTERS, false), accept()]));
    deny(&mut objects, SOURCE, "spoofed", "spoofed");

    let count = objects.count("unknown".to_owned());
    objects.rule("forward", to_nobody(count.clone()));
    objects.rule("forward", established());
    objects.rule("forward", discovery());
    for family in Family::ALL {
        let returning = within(&[Field::IifName, Field::Daddr(family)], own(family), false);
        objects
            .rule("forward", NftRule::new([returning, accept()]).comment("back to itself through a Service"));
    }
    objects.rule("forward", vmap(Field::IifName, FROM));
    objects.rule("forward", vmap(Field::OifName, TO));

    objects.rule(
        "input",
        NftRule::new([ours(Field::IifName), Statement::Verdict(Verdict::Goto("local".to_owned()))]),
    );
    objects.rule("local", established());
    objects.rule("local", discovery());
    objects.rule("local", vmap(Field::IifName, FROM));
    objects.rule("output", to_nobody(count));
    objects.rule(SENT, vmap(Field::OifName, TO));
    objects.rule(SENT, NftRule::new([accept()]));
    for (name, hook, priority) in [
        ("prerouting", Hook::Prerouting, -300),
        ("forward", Hook::Forward, 0),
        ("input", Hook::Input, 0),
        ("output", Hook::Output, 0),
    ] {
        let chain = objects.chains.entry(name.to_owned()).or_default();
        chain.base = Some(BaseChain { kind: ChainType::Filter, hook, priority });
    }
    objects
}

fn own(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "own4",
        Family::Ipv6 => "own6",
    }
}

fn node(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "node4",
        Family::Ipv6 => "node6",
    }
}

/// What an endpoint puts into the frame's sets.
pub fn endpoint(name: &Ifname, endpoint: &Endpoint) -> Objects {
    let mut objects = Objects::default();
    let ifname = {
        let mut octets = name.0.as_bytes().to_vec();
        octets.resize(Type::IfName.length(), 0);
        octets
    };
    let mut put = |set: &str, element: Element| {
        objects.elements.entry(set.to_owned()).or_default().insert(element);
    };
    put(ENDPOINTS, single(&[&ifname]));
    if endpoint.spoofing == Spoofing::Allowed {
        put(ROUTERS, single(&[&ifname]));
    }
    for address in &endpoint.addresses {
        put(own(Family::of(*address)), single(&[&ifname, &octets(*address)]));
    }
    for (map, direction, chain) in
        [(FROM, Direction::Egress, &endpoint.egress), (TO, Direction::Ingress, &endpoint.ingress)]
    {
        put(map, single(&[&ifname]).to(Verdict::Goto(chain_name(direction, chain))));
    }
    objects
}

/// What the node's addresses become.
pub fn node_addresses(addresses: &BTreeSet<IpAddr>) -> Objects {
    let mut objects = Objects::default();
    for address in addresses {
        let set = node(Family::of(*address)).to_owned();
        objects.elements.entry(set).or_default().insert(single(&[&octets(*address)]));
    }
    objects
}

/// The name of the chain that stands for one direction of all endpoints with these policies.
pub fn chain_name(direction: Direction, chain: &Chain) -> String {
    let prefix = match direction {
        Direction::Ingress => TO,
        Direction::Egress => FROM,
    };
    format!("{prefix}/{}", super::digest(&format!("{chain:?}")))
}

/// The name of a policy's chain, as a person would look for it: `ingress/network/shop/web`. A long one is cut, and told
/// from its like by a digest.
pub fn policy_name(id: &PolicyId) -> String {
    let tier = match id.tier {
        Tier::Admin => "admin",
        Tier::Network => "network",
        Tier::Baseline => "baseline",
    };
    let name = format!("{}/{tier}/{}", id.direction, id.name);
    if name.len() <= NAME && name.is_ascii() {
        return name;
    }
    let digest = super::digest(&name);
    let cut: String = name.chars().filter(char::is_ascii).take(NAME - digest.len() - 1).collect();
    format!("{cut}-{digest}")
}

/// Where what a direction accepts goes on.
fn accepted(direction: Direction) -> Verdict {
    match direction {
        Direction::Ingress => Verdict::Accept,
        Direction::Egress => Verdict::Goto(SENT.to_owned()),
    }
}

/// What one direction of the endpoints with these policies becomes. `find` knows the policies it names, `numbers` their
/// sets; those `merged` are led to by [`peer`] and [`class`].
pub fn chain<'a>(
    direction: Direction,
    chain: &Chain,
    find: impl Fn(&PolicyId) -> Option<&'a Policy>,
    numbers: &Numbers,
    merged: &BTreeSet<PolicyId>,
) -> Objects {
    let mut objects = Objects::default();
    let name = chain_name(direction, chain);
    let jump = |chain: String| NftRule::new([Statement::Verdict(Verdict::Jump(chain))]);
    let goto = |chain: &str| NftRule::new([Statement::Verdict(Verdict::Goto(chain.to_owned()))]);
    let end = || NftRule::new([Statement::Verdict(accepted(direction))]);

    // The tiers are chains of their own only where something leads to them past the one before.
    let mut admin = Vec::new();
    let mut passes = false;
    let network = format!("{name}/network");
    for (place, id) in chain.admin.iter().enumerate() {
        match find(id) {
            Some(policy) if is_written_out(id, policy) => {
                passes = true;
                let copy = format!("{name}/{place}");
                objects
                    .chains
                    .insert(copy.clone(), rules(id, policy, &Verdict::Goto(network.clone()), numbers));
                admin.push(jump(copy).comment(policy_name(id)));
            }
            _ => admin.push(jump(policy_name(id))),
        }
    }
    objects.chains.insert(name.clone(), NftChain { base: None, rules: admin });
    let mut rest = if passes { network } else { name.clone() };
    if passes {
        objects.rule(&name, goto(&rest));
    }

    let mut baseline: Vec<_> = chain.baseline.iter().map(|id| jump(policy_name(id))).collect();
    baseline.push(end());
    if let Some(isolated) = &chain.network {
        if direction == Direction::Egress {
            let after = format!("{name}/baseline");
            for family in Family::ALL {
                let fields = vec![Field::Daddr(family)];
                let local = Statement::Lookup { fields, set: node(family).to_owned(), inverted: false };
                let on = Statement::Verdict(Verdict::Goto(after.clone()));
                objects.rule(&rest, NftRule::new([local, on]));
            }
            objects.chains.insert(after, NftChain { base: None, rules: baseline.clone() });
        }
        if !merged.is_empty() {
            for family in Family::ALL {
                let map = peers(&name, family);
                let field = match direction {
                    Direction::Ingress => Field::Saddr(family),
                    Direction::Egress => Field::Daddr(family),
                };
                objects.sets.insert(map.clone(), NftSet::to_verdicts([field.kind()]));
                objects.rule(&rest, NftRule::new([Statement::Vmap { fields: vec![field], map }]));
            }
            let unmerged = unmerged(&name);
            objects.rule(&rest, goto(&unmerged));
            rest = unmerged;
        }
        for id in isolated.policies.iter().filter(|id| !merged.contains(id)) {
            objects.rule(&rest, jump(policy_name(id)));
        }
        match isolated.otherwise {
            Mode::Enforce => {
                deny(&mut objects, &rest, &format!("deny/{name}"), &format!("deny - {name}"));
                return objects;
            }
            Mode::Audit => {
                let count = objects.count(format!("audit/{name}"));
                objects.rule(&rest, NftRule::new([count]));
                objects.rule(&rest, tell(&format!("audit - {name}")));
            }
        }
    }
    for rule in baseline {
        objects.rule(&rest, rule);
    }
    objects
}

/// The map that leads from the other end's address to the policies of a chain that it may matter to.
pub fn peers(chain: &str, family: Family) -> String {
    match family {
        Family::Ipv4 => format!("{chain}/peers4"),
        Family::Ipv6 => format!("{chain}/peers6"),
    }
}

/// What is looked at whatever the address.
fn unmerged(chain: &str) -> String {
    format!("{chain}/unmerged")
}

fn class_name(chain: &str, policies: &[PolicyId]) -> String {
    format!("{chain}/{}", super::digest(&format!("{policies:?}")))
}

/// The part of a chain that addresses share which lead to the same policies; a single one needs none.
pub fn class(chain: &str, policies: &[PolicyId]) -> Objects {
    let mut objects = Objects::default();
    if policies.len() > 1 {
        let name = class_name(chain, policies);
        for id in policies {
            objects.rule(&name, NftRule::new([Statement::Verdict(Verdict::Jump(policy_name(id)))]));
        }
    }
    objects
}

/// Where an address leads, in the map of [`peers`].
pub fn peer(chain: &str, address: IpAddr, policies: &[PolicyId]) -> Element {
    single(&[&octets(address)]).to(Verdict::Jump(match policies {
        [alone] => policy_name(alone),
        _ => class_name(chain, policies),
    }))
}

/// Counts, tells and drops all that gets so far.
fn deny(objects: &mut Objects, chain: &str, counter: &str, prefix: &str) {
    let count = objects.count(counter.to_owned());
    objects.rule(chain, NftRule::new([count]));
    objects.rule(chain, tell(prefix));
    objects.rule(chain, NftRule::new([Statement::Verdict(Verdict::Drop)]));
}

fn tell(prefix: &str) -> NftRule {
    NftRule::new([
        Statement::Limit { rate: TOLD_RATE, unit: 1, burst: TOLD_BURST },
        Statement::Log { prefix: prefix.to_owned(), group: NFLOG_GROUP, snaplen: SNAPLEN },
    ])
}

/// All of a ruleset, for people. `numbers` are those its sets have; one without is a set of its own.
pub fn table(ruleset: &Ruleset, numbers: &Numbers) -> Table {
    let mut objects = frame();
    objects.extend(node_addresses(&ruleset.node));
    for (id, found) in &ruleset.policies {
        objects.extend(policy(id, found, numbers));
    }
    for (name, found) in &ruleset.endpoints {
        objects.extend(endpoint(name, found));
        for (direction, of) in [(Direction::Ingress, &found.ingress), (Direction::Egress, &found.egress)] {
            let find = |id: &PolicyId| ruleset.policies.get(id).map(|policy| &**policy);
            let merged = Merged::new(of, find, |id| ruleset.sets.get(id)).unwrap_or_default();
            objects.extend(chain(direction, of, find, numbers, &merged.policies()));
            let name = chain_name(direction, of);
            for address in merged.addresses() {
                let policies = merged.found_by(address).unwrap_or_default();
                objects.extend(class(&name, &policies));
                let map = peers(&name, Family::of(address));
                objects.elements.entry(map).or_default().insert(peer(&name, address, &policies));
            }
        }
    }
    for (id, Set { of, members }) in &ruleset.sets {
        let place = numbers.of(*id);
        if let Some((name, place)) = shared(*id).zip(place) {
            objects.extend(number(*id, place, of));
            objects.elements.entry(name.to_owned()).or_default().extend(elements(Some(place), members));
        } else {
            objects.sets.insert(id.to_string(), set(*id, of));
            objects.elements.insert(id.to_string(), elements(None, members).collect());
        }
    }
    let Objects { counters, sets, mut elements, chains } = objects;
    let with_elements = |(name, set)| {
        let held = elements.remove(&name).unwrap_or_default();
        (name, (set, held))
    };
    Table { name: TABLE.to_owned(), counters, sets: sets.into_iter().map(with_elements).collect(), chains }
}
