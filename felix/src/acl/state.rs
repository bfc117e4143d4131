//! What the kernel is to hold against what it holds, and the transactions from one to the other. Pure.
//!
//! Chains, counters, sets and the elements of small sets are compared one by one. The members of the ruleset's sets are
//! held once: what the kernel's differ by is what waits to be written.

mod tracked;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::types::Family;
use rustc_hash::FxHashMap;

use self::tracked::Tracked;
use super::compile::{self, Numbers, Objects};
use super::merge::Merged;
use super::nft::{Element, Key, ReadChain, ReadTable, Rule, Set};
use super::ruleset::{
    Chain, Delta, Direction, Endpoint, Ifname, Members, PolicyId, Ruleset, SetChange, SetId,
};

/// A part of the ruleset that becomes objects of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Unit {
    Frame,
    Node,
    Policy(PolicyId),
    Chain(Direction, Arc<Chain>),
    Endpoint(Ifname),
    /// Of a chain by its name: what addresses share.
    Class(Arc<str>, Vec<PolicyId>),
    /// The number of a set.
    Number(SetId),
}

/// What a unit has become.
#[derive(Debug, Default)]
struct Names {
    counters: Vec<String>,
    sets: Vec<String>,
    elements: Vec<Place>,
    chains: Vec<String>,
}

/// An element by its key and the name of its set: in this order, for keys differ early and names late.
type Place = (Key, Arc<str>);

/// Elements of a set of nf_tables that wait; none in both.
#[derive(Clone, Debug, Default)]
struct Waiting {
    add: BTreeSet<Element>,
    remove: BTreeSet<Element>,
}

impl Waiting {
    fn add(&mut self, elements: impl IntoIterator<Item = Element>) {
        for element in elements {
            if !self.remove.remove(&element) {
                self.add.insert(element);
            }
        }
    }

    fn remove(&mut self, elements: impl IntoIterator<Item = Element>) {
        for element in elements {
            if !self.add.remove(&element) {
                self.remove.insert(element);
            }
        }
    }
}

/// The ruleset, and what the kernel has of it.
#[derive(Debug)]
pub struct State {
    ruleset: Ruleset,
    units: FxHashMap<Unit, Names>,
    /// Endpoints by the chains they share.
    shared: BTreeMap<(Direction, Arc<Chain>), usize>,
    merged: BTreeMap<(Direction, Arc<Chain>), Merged>,
    /// Addresses by the part of a chain that they share.
    classes: FxHashMap<(Arc<str>, Vec<PolicyId>), usize>,
    /// What an address leads to, by the chain's name.
    peers: FxHashMap<(Arc<str>, IpAddr), Vec<PolicyId>>,
    counters: Tracked<String, ()>,
    sets: Tracked<String, Set>,
    elements: Tracked<Place, Element>,
    chains: Tracked<String, Arc<ReadChain>>,
    numbers: Numbers,
    /// Sets of the ruleset that are sets of nf_tables of their own, by their names.
    own: BTreeMap<String, SetId>,
    /// Sets of the ruleset of whose members the kernel has none.
    whole: BTreeSet<SetId>,
    /// Of the others, by the name of the set of nf_tables.
    members: BTreeMap<String, Waiting>,
    has_table: bool,
    /// What is there has numbers of which is not known whose they are.
    is_strange: bool,
    /// The kernel has something of ours in a form that cannot be changed: all is made anew.
    is_beyond_repair: bool,
    swept: bool,
}

impl State {
    /// Nothing wanted but the frame, nothing there.
    pub fn new() -> Self {
        let mut state = Self {
            ruleset: Ruleset::default(),
            units: FxHashMap::default(),
            shared: BTreeMap::new(),
            merged: BTreeMap::new(),
            classes: FxHashMap::default(),
            peers: FxHashMap::default(),
            counters: Tracked::new(),
            sets: Tracked::new(),
            elements: Tracked::new(),
            chains: Tracked::new(),
            numbers: Numbers::default(),
            own: BTreeMap::new(),
            whole: BTreeSet::new(),
            members: BTreeMap::new(),
            has_table: false,
            is_strange: false,
            is_beyond_repair: false,
            swept: false,
        };
        state.become_(Unit::Frame, Some(compile::frame()));
        state
    }

    /// What is wanted.
    pub fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// The numbers its sets have.
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Numbers that an earlier agent has given, before any step; none: they are not known, and what is there is made
    /// anew in one transaction.
    pub fn adopt(&mut self, numbers: Option<Numbers>) {
        self.is_strange = numbers.is_none();
        self.numbers = numbers.unwrap_or_default();
    }

    /// From now on what nobody wants goes; [`State::observe`] must follow.
    pub fn sweep(&mut self) {
        self.swept = true;
        self.counters.tracker.sweep();
        self.sets.tracker.sweep();
        self.elements.tracker.sweep();
        self.chains.tracker.sweep();
    }

    /// Takes a step of what is wanted. Whether what is there must be read again: a set came back that had not gone yet.
    pub fn apply(&mut self, delta: Delta) -> bool {
        let unsure = self.apply_sets(&delta.sets);
        let mut rewritten = BTreeSet::new();
        for (id, policy) in &delta.policies {
            let was = self.ruleset.policies.get(id).is_some_and(|old| compile::is_written_out(id, old));
            if was || policy.as_ref().is_some_and(|new| compile::is_written_out(id, new)) {
                rewritten.insert(id.clone());
            }
            let objects = policy.as_ref().map(|policy| compile::policy(id, policy, &self.numbers));
            self.become_(Unit::Policy(id.clone()), objects);
        }
        if let Some(node) = &delta.node {
            self.become_(Unit::Node, Some(compile::node_addresses(node)));
        }
        let mut touched = BTreeSet::new();
        for (name, endpoint) in &delta.endpoints {
            let old = self.ruleset.endpoints.get(name).cloned();
            for chain in old.iter().flat_map(|old| chains_of(old)) {
                if let Some(uses) = self.shared.get_mut(&chain) {
                    *uses -= 1;
                }
                touched.insert(chain);
            }
            for chain in endpoint.iter().flat_map(|new| chains_of(new)) {
                *self.shared.entry(chain.clone()).or_default() += 1;
                touched.insert(chain);
            }
            let objects = endpoint.as_ref().map(|endpoint| compile::endpoint(name, endpoint));
            self.become_(Unit::Endpoint(name.clone()), objects);
        }
        // An endpoint more or less changes nothing of what it shares.
        touched.retain(|chain| {
            let used = self.shared.get(chain).is_some_and(|uses| *uses > 0);
            !used || !self.units.contains_key(&Unit::Chain(chain.0, chain.1.clone()))
        });
        if !delta.policies.is_empty() {
            let depends = |chain: &Chain| {
                chain.admin.iter().any(|id| rewritten.contains(id))
                    || Merged::may_be(chain) && chain.policies().any(|id| delta.policies.contains_key(id))
            };
            touched.extend(self.shared.keys().filter(|(_, chain)| depends(chain)).cloned());
        }
        for (id, change) in &delta.sets {
            if let SetChange::Members { add, remove } = change {
                self.change_members(*id, add, remove, &touched);
            }
        }
        self.ruleset.apply(delta);
        for (direction, chain) in touched {
            self.rebuild(direction, chain);
        }
        unsure
    }

    /// Whether what is there must be read again.
    fn apply_sets(&mut self, changes: &BTreeMap<SetId, SetChange>) -> bool {
        let mut unsure = false;
        for (id, change) in changes {
            let shared = compile::shared(*id);
            let name = shared.map_or_else(|| id.to_string(), str::to_owned);
            match change {
                SetChange::Add(set) => {
                    // An earlier agent's, or one that has not gone yet, may have members.
                    unsure |= match shared {
                        Some(_) => self.numbers.of(*id).is_some(),
                        None => self.sets.tracker.actual().contains_key(&name),
                    };
                    if let Some(number) = self.numbers.give(*id) {
                        self.become_(Unit::Number(*id), Some(compile::number(*id, number, &set.of)));
                    } else {
                        self.own.insert(name.clone(), *id);
                        self.members.remove(&name);
                        self.sets.want(name, Set { comment: None, ..compile::set(*id, "") });
                    }
                    self.whole.insert(*id);
                }
                SetChange::Members { .. } if self.whole.contains(id) => {}
                SetChange::Members { add, remove } => {
                    let number = self.numbers.of(*id);
                    let waiting = self.members.entry(name).or_default();
                    waiting.remove(compile::elements(number, remove));
                    waiting.add(compile::elements(number, add));
                }
                SetChange::Remove if shared.is_some() => {
                    let number = self.numbers.of(*id);
                    if let Some(set) = self.ruleset.sets.get(id).filter(|_| !self.whole.remove(id)) {
                        let members = compile::elements(number, &set.members);
                        self.members.entry(name).or_default().remove(members);
                    }
                    self.numbers.take(*id);
                    self.become_(Unit::Number(*id), None);
                }
                SetChange::Remove => {
                    self.sets.unwant(&name);
                    self.own.remove(&name);
                    self.members.remove(&name);
                    self.whole.remove(id);
                }
            }
        }
        unsure
    }

    /// A chain that endpoints share is new, is gone, or names something else.
    fn rebuild(&mut self, direction: Direction, chain: Arc<Chain>) {
        let key = (direction, Arc::clone(&chain));
        let used = self.shared.get(&key).is_some_and(|uses| *uses > 0);
        let name: Arc<str> = compile::chain_name(direction, &chain).into();
        let policies = &self.ruleset.policies;
        let find = |id: &PolicyId| policies.get(id).map(|policy| &**policy);
        let sets = &self.ruleset.sets;
        let merged = if used { Merged::new(&chain, find, |id| sets.get(id)) } else { None };
        let found = merged.as_ref().map(Merged::policies).unwrap_or_default();
        let objects = used.then(|| compile::chain(direction, &chain, find, &self.numbers, &found));
        let before = self.merged.remove(&key);
        let mut addresses: BTreeSet<IpAddr> = before.iter().flat_map(Merged::addresses).collect();
        if let Some(merged) = merged {
            addresses.extend(merged.addresses());
            self.merged.insert(key.clone(), merged);
        }
        if !used {
            self.shared.remove(&key);
        }
        self.become_(Unit::Chain(direction, chain), objects);
        for address in addresses {
            let leads = self.merged.get(&key).and_then(|merged| merged.found_by(address));
            self.lead(&name, address, leads);
        }
    }

    /// Members of a set come and go: their addresses may lead elsewhere. Chains that are rebuilt see to it themselves.
    fn change_members(
        &mut self,
        id: SetId,
        add: &Members,
        remove: &Members,
        rebuilt: &BTreeSet<(Direction, Arc<Chain>)>,
    ) {
        let mut leads = Vec::new();
        for (key, merged) in self.merged.iter_mut().filter(|(key, _)| !rebuilt.contains(key)) {
            let touched = merged.change(id, add, remove);
            if !touched.is_empty() {
                let name: Arc<str> = compile::chain_name(key.0, &key.1).into();
                leads.extend(touched.into_iter().map(|at| (Arc::clone(&name), at, merged.found_by(at))));
            }
        }
        for (name, address, policies) in leads {
            self.lead(&name, address, policies);
        }
    }

    /// An address leads to these policies of a chain now; none: it leads nowhere.
    fn lead(&mut self, chain: &Arc<str>, address: IpAddr, policies: Option<Vec<PolicyId>>) {
        let place = (Arc::clone(chain), address);
        if self.peers.get(&place) == policies.as_ref() {
            return;
        }
        let map: Arc<str> = compile::peers(chain, Family::of(address)).into();
        match &policies {
            Some(policies) => {
                let element = compile::peer(chain, address, policies);
                self.elements.want((element.key.clone(), map), element);
            }
            None => self.elements.unwant(&(compile::octets(address), map)),
        }
        let before = match policies {
            Some(policies) => {
                let class = (Arc::clone(chain), policies.clone());
                let uses = self.classes.entry(class).or_default();
                *uses += 1;
                if *uses == 1 {
                    let objects = compile::class(chain, &policies);
                    self.become_(Unit::Class(Arc::clone(chain), policies.clone()), Some(objects));
                }
                self.peers.insert(place, policies)
            }
            None => self.peers.remove(&place),
        };
        if let Some(before) = before {
            let class = (Arc::clone(chain), before);
            if let Some(uses) = self.classes.get_mut(&class) {
                *uses -= 1;
                if *uses == 0 {
                    self.classes.remove(&class);
                    self.become_(Unit::Class(class.0, class.1), None);
                }
            }
        }
    }

    /// A unit's objects are wanted now, and what it was before and is no more is not.
    fn become_(&mut self, unit: Unit, objects: Option<Objects>) {
        let before = self.units.remove(&unit).unwrap_or_default();
        let mut names = Names::default();
        let existed = objects.is_some();
        let Objects { counters, sets, elements, chains } = objects.unwrap_or_default();
        for name in before.counters.iter().filter(|name| !counters.contains(*name)) {
            self.counters.unwant(name);
        }
        for name in before.sets.iter().filter(|name| !sets.contains_key(*name)) {
            self.sets.unwant(name);
        }
        for name in before.chains.iter().filter(|name| !chains.contains_key(*name)) {
            self.chains.unwant(name);
        }
        for name in &before.elements {
            self.elements.unwant(name);
        }
        for name in counters {
            self.counters.want(name.clone(), ());
            names.counters.push(name);
        }
        for (name, set) in sets {
            self.sets.want(name.clone(), Set { comment: None, ..set });
            names.sets.push(name);
        }
        for (set, elements) in elements {
            let set: Arc<str> = set.into();
            for element in elements {
                let key = (element.key.clone(), Arc::clone(&set));
                self.elements.want(key.clone(), element);
                names.elements.push(key);
            }
        }
        for (name, chain) in chains {
            let rules = chain.rules.iter().map(Rule::body).collect();
            self.chains
                .want(name.clone(), Arc::new(ReadChain { base: chain.base, is_strange: false, rules }));
            names.chains.push(name);
        }
        if existed {
            self.units.insert(unit, names);
        }
    }

    /// What the kernel has was read; none: there is no table.
    pub fn observe(&mut self, read: Option<ReadTable>) {
        self.has_table = read.is_some();
        let ReadTable { counters, sets, chains } = read.unwrap_or_default();
        let is_ours = |name: &String| self.sets.tracker.wanted().contains_key(name);
        let holds_members: BTreeSet<&str> =
            compile::sets().map(|(name, _)| name).filter(|name| *name != compile::NUMBERS).collect();
        let mut found: BTreeMap<String, BTreeSet<Element>> = BTreeMap::new();
        let (mut shapes, mut small) = (BTreeMap::new(), BTreeMap::new());
        self.is_strange &= self.has_table;
        let mut beyond_repair = self.is_strange;
        for (name, set) in sets {
            let wanted = self.sets.tracker.wanted().get(&name);
            let Some((set, elements)) = set else {
                beyond_repair |= wanted.is_some();
                shapes.insert(name, Set::of([]));
                continue;
            };
            beyond_repair |= wanted.is_some_and(|wanted| !wanted.is_like(&set));
            if holds_members.contains(&*name) || self.own.contains_key(&name) {
                found.insert(name.clone(), elements);
            } else if is_ours(&name) {
                // What a set holds that is to go goes with it.
                let set: Arc<str> = name.as_str().into();
                small.extend(elements.into_iter().map(|e| ((e.key.clone(), Arc::clone(&set)), e)));
            }
            shapes.insert(name, Set { comment: None, ..set });
        }
        for (name, chain) in self.chains.tracker.wanted() {
            beyond_repair |=
                chains.get(name).is_some_and(|found| found.is_strange || found.base != chain.base);
        }
        self.is_beyond_repair = beyond_repair;
        if beyond_repair {
            self.forget();
            return;
        }
        self.counters.observe(counters.into_keys().map(|name| (name, ())).collect());
        self.sets.observe(shapes);
        self.elements.observe(small);
        let wanted = self.chains.tracker.wanted();
        let kept = |(name, chain)| {
            let same = wanted.get(&name).filter(|wanted| ***wanted == chain);
            let chain = same.map_or_else(|| Arc::new(chain), Arc::clone);
            (name, chain)
        };
        let chains = chains.into_iter().map(kept).collect();
        self.chains.observe(chains);
        self.compare_members(found);
    }

    /// As though nothing were there.
    fn forget(&mut self) {
        self.counters.observe(BTreeMap::new());
        self.sets.observe(BTreeMap::new());
        self.elements.observe(BTreeMap::new());
        self.chains.observe(BTreeMap::new());
        self.compare_members(BTreeMap::new());
    }

    /// What was `found` in sets that hold members, by their names.
    fn compare_members(&mut self, mut found: BTreeMap<String, BTreeSet<Element>>) {
        let before = std::mem::take(&mut self.members);
        self.whole.clear();
        for (id, set) in &self.ruleset.sets {
            let name = compile::shared(*id).map_or_else(|| id.to_string(), str::to_owned);
            let there = found.entry(name.clone()).or_default();
            let elements = || compile::elements(self.numbers.of(*id), &set.members);
            if !set.members.is_empty() && !elements().any(|element| there.contains(&element)) {
                self.whole.insert(*id);
                continue;
            }
            let missing: BTreeSet<_> = elements().filter(|element| !there.remove(element)).collect();
            if !missing.is_empty() {
                self.members.entry(name).or_default().add.extend(missing);
            }
        }
        for (name, mut extra) in found {
            // Before the sweep only what was removed on purpose goes.
            if !self.swept {
                let gone = before.get(&name).map(|waiting| &waiting.remove);
                extra.retain(|element| gone.is_some_and(|gone| gone.contains(element)));
            }
            if !extra.is_empty() {
                self.members.entry(name).or_default().remove = extra;
            }
        }
    }

    /// Whether the kernel has what is wanted, as far as is known.
    pub fn is_clean(&self) -> bool {
        self.has_table
            && !self.is_beyond_repair
            && self.whole.is_empty()
            && self.members.values().all(|waiting| waiting.add.is_empty() && waiting.remove.is_empty())
            && self.counters.is_clean()
            && self.sets.is_clean()
            && self.elements.is_clean()
            && self.chains.is_clean()
    }

    /// Whether something is wanted that is not there, or is something else; what is to go does not count.
    pub fn lacks(&self) -> bool {
        !self.has_table
            || self.is_beyond_repair
            || !self.whole.is_empty()
            || self.members.values().any(|waiting| !waiting.add.is_empty())
            || self.counters.lacks()
            || self.sets.lacks()
            || self.elements.lacks()
            || self.chains.lacks()
    }

    /// How many objects and elements wait to be written or removed.
    pub fn pending(&self) -> usize {
        let whole = self.whole.iter().filter_map(|id| self.ruleset.sets.get(id));
        let members = whole.map(|set| set.members.len()).sum::<usize>()
            + self.members.values().map(|waiting| waiting.add.len() + waiting.remove.len()).sum::<usize>();
        members
            + self.counters.changes().count()
            + self.sets.changes().count()
            + self.elements.changes().count()
            + self.chains.changes().count()
    }

    /// The kernel has taken everything.
    pub fn done(&mut self) {
        self.has_table = true;
        (self.is_strange, self.is_beyond_repair) = (false, false);
        self.whole.clear();
        self.members.clear();
        self.counters.all_done();
        self.sets.all_done();
        self.elements.all_done();
        self.chains.all_done();
    }
}

fn chains_of(endpoint: &Endpoint) -> [(Direction, Arc<Chain>); 2] {
    [(Direction::Ingress, endpoint.ingress.clone()), (Direction::Egress, endpoint.egress.clone())]
}
