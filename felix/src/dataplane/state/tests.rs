//! The state against a model of the kernel that does what the kernel does with next-hop objects.

use std::collections::BTreeSet;

use manx_bgp::types::ScopedAddr;
use proptest::prelude::*;

use super::*;

const SETTINGS: Settings = Settings { table: 254, metric: 13 };

/// The kernel, as far as it matters: interfaces up or not, objects, routes.
#[derive(Clone, Debug, Default)]
struct Kernel {
    down: BTreeSet<u32>,
    objects: BTreeMap<u32, Object>,
    routes: BTreeMap<IpNetwork, Target>,
    writes: usize,
}

impl Kernel {
    fn snapshot(&self) -> Snapshot {
        let seen = |(destination, target): (&IpNetwork, &Target)| Seen {
            destination: *destination,
            target: *target,
            settings: SETTINGS,
        };
        let routes = self.routes.iter().map(seen).collect();
        Snapshot { routes, objects: self.objects.clone(), ..Snapshot::default() }
    }

    /// Whether it did it.
    fn write(&mut self, write: &Write, replaces: bool) -> bool {
        self.writes += 1;
        match write {
            Write::Route { destination, after: Some(target), .. } => {
                let has_object = match target {
                    Target::Group(id) => matches!(self.objects.get(id), Some(Object::Group(_))),
                    _ => true,
                };
                if !has_object || (!replaces && self.routes.contains_key(destination)) {
                    return false;
                }
                self.routes.insert(*destination, *target);
            }
            Write::Route { destination, after: None, .. } => drop(self.routes.remove(destination)),
            Write::Object(ObjectWrite { id, after: None, .. }) => return self.remove(*id),
            Write::Object(ObjectWrite { id, before, after: Some(object) }) => {
                let good = match object {
                    Object::Leg { ifindex, .. } => !self.down.contains(ifindex),
                    Object::Group(members) => {
                        !members.is_empty() && members.iter().all(|(leg, _)| self.objects.contains_key(leg))
                    }
                };
                if !good || (before.is_none() && self.objects.contains_key(id)) {
                    return false;
                }
                self.objects.insert(*id, object.clone());
            }
            Write::Stray(_) => {}
        }
        true
    }

    /// An object goes, and all that rests on it.
    fn remove(&mut self, id: u32) -> bool {
        let was_there = self.objects.remove(&id).is_some();
        let mut emptied = Vec::new();
        for (group, object) in &mut self.objects {
            if let Object::Group(members) = object {
                let before = members.len();
                members.retain(|(leg, _)| *leg != id);
                if members.is_empty() && before > 0 {
                    emptied.push(*group);
                }
            }
        }
        self.routes.retain(|_, target| *target != Target::Group(id));
        for group in emptied {
            self.remove(group);
        }
        was_there
    }

    fn set_link(&mut self, link: u32, up: bool) {
        if up {
            self.down.remove(&link);
            return;
        }
        self.down.insert(link);
        let legs = self
            .objects
            .iter()
            .filter(|(_, object)| matches!(object, Object::Leg { ifindex, .. } if *ifindex == link));
        for leg in legs.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove(leg);
        }
    }

    /// Where packets to a destination go: the neighbours, with weights.
    fn reached(&self, target: Target) -> Option<BTreeSet<(IpAddr, u32, u8)>> {
        let Target::Group(id) = target else { return None };
        let Some(Object::Group(members)) = self.objects.get(&id) else { return Some(BTreeSet::new()) };
        let leg = |(leg, weight): &(u32, u8)| match self.objects.get(leg) {
            Some(Object::Leg { gateway, ifindex }) => Some((*gateway, *ifindex, *weight)),
            _ => None,
        };
        Some(members.iter().filter_map(leg).collect())
    }
}

/// Neighbours 1 and 2 are on interface 1, 3 and 4 on interface 2.
fn neighbour(n: u8) -> ScopedAddr {
    IpAddr::from([192, 0, (n - 1) / 2 + 1, n]).into()
}

fn links(down: &BTreeSet<u32>) -> Links {
    let connected = [1_u8, 2].map(|link| {
        let network = manx_bgp::types::Prefix::truncated(IpAddr::from([192, 0, link, 0]), 24).unwrap();
        (network, u32::from(link))
    });
    let connected = connected.into_iter().filter(|(_, link)| !down.contains(link)).collect();
    Links { connected, names: BTreeMap::new() }
}

fn destination(n: u8) -> IpNetwork {
    IpNetwork::new(IpAddr::from([10, 0, n, 0]), 24).unwrap()
}

fn route() -> impl Strategy<Value = Route> {
    let hops = prop::collection::btree_set(1..5_u8, 1..4);
    prop_oneof![
        6 => hops.prop_map(|hops| Route::via(hops.into_iter().map(neighbour))),
        1 => Just(Route::Blackhole),
        1 => Just(Route::Pod { ifindex: 9 }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Want(u8, Route),
    /// Everything that leads by one set of next hops is to lead by another.
    Move(Route),
    Unwant(u8),
    Sweep,
    Link(u32, bool),
    /// The link's fate is told.
    Told,
    Delete(u8),
    DeleteObject(u8),
    Compare,
    Apply,
    Rest,
    /// A new agent, which is told all again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12_u8, route()).prop_map(|(n, route)| Step::Want(n, route)),
        3 => route().prop_map(Step::Move),
        2 => (0..12_u8).prop_map(Step::Unwant),
        1 => Just(Step::Sweep),
        3 => (1..3_u32, any::<bool>()).prop_map(|(link, up)| Step::Link(link, up)),
        3 => Just(Step::Told),
        1 => (0..12_u8).prop_map(Step::Delete),
        1 => (0..12_u8).prop_map(Step::DeleteObject),
        1 => Just(Step::Compare),
        6 => Just(Step::Apply),
        1 => Just(Step::Rest),
        1 => Just(Step::Restart),
    ]
}

fn write(state: &mut State, kernel: &mut Kernel, writes: Vec<Write>) {
    for write in writes {
        let (_, flags) = state.message(&write);
        let replaces = flags & netlink_packet_core::NLM_F_REPLACE != 0;
        match kernel.write(&write, replaces) {
            true => state.done(&write),
            false => state.refused(write),
        }
    }
}

/// What the syncer does when it is told that something has happened: groups first, then what differs.
fn apply(state: &mut State, kernel: &mut Kernel) {
    let differing = state.pending();
    let mut writes = Vec::new();
    state.settle(&mut writes);
    state.moves(&mut writes);
    write(state, kernel, writes);
    for destination in differing {
        let mut writes = Vec::new();
        state.plan(destination, &mut writes);
        write(state, kernel, writes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_the_kernel_ends_up_with_what_is_wanted(steps in prop::collection::vec(step(), 0..50)) {
        let mut kernel = Kernel::default();
        let mut state = State::new(SETTINGS, links(&kernel.down), Snapshot::default());
        let mut wanted: BTreeMap<IpNetwork, Route> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Want(n, route) => {
                    state.want(destination(n), &route);
                    wanted.insert(destination(n), route);
                }
                Step::Move(route) => {
                    let from = wanted.values().find(|route| matches!(route, Route::Via(_))).cloned();
                    for (destination, wanted) in wanted.iter_mut().filter(|(_, wanted)| Some(&**wanted) == from.as_ref()) {
                        state.want(*destination, &route);
                        *wanted = route.clone();
                    }
                }
                Step::Unwant(n) => {
                    state.unwant(destination(n));
                    wanted.remove(&destination(n));
                }
                Step::Sweep => drop(state.sweep()),
                Step::Link(link, up) => kernel.set_link(link, up),
                Step::Told => {
                    state.observe_objects(kernel.objects.clone());
                    state.connect(links(&kernel.down));
                }
                Step::Delete(n) => {
                    kernel.routes.remove(&destination(n));
                    state.lost(destination(n));
                }
                Step::DeleteObject(n) => {
                    if let Some(id) = kernel.objects.keys().nth(usize::from(n)).copied() {
                        kernel.remove(id);
                        state.observe_objects(kernel.objects.clone());
                    }
                }
                Step::Compare => drop(state.observe(kernel.snapshot())),
                Step::Apply => apply(&mut state, &mut kernel),
                Step::Rest => {
                    let mut writes = Vec::new();
                    state.rest(&mut writes);
                    write(&mut state, &mut kernel, writes);
                }
                Step::Restart => {
                    state = State::new(SETTINGS, links(&kernel.down), kernel.snapshot());
                    for (destination, route) in &wanted {
                        state.want(*destination, route);
                    }
                }
            }
        }
        for link in [1, 2] {
            kernel.set_link(link, true);
        }
        state.connect(links(&kernel.down));
        state.observe(kernel.snapshot());
        state.sweep();
        apply(&mut state, &mut kernel);
        let mut writes = Vec::new();
        state.rest(&mut writes);
        write(&mut state, &mut kernel, writes);

        prop_assert_eq!(kernel.routes.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        for (destination, route) in &wanted {
            let there = kernel.routes[destination];
            match route {
                Route::Via(hops) => {
                    let hops = hops.iter().map(|hop| (hop.address.addr, links(&BTreeSet::new()).leading_to(hop.address).unwrap(), hop.weight));
                    prop_assert_eq!(kernel.reached(there), Some(hops.collect()), "{}", destination);
                }
                Route::Pod { ifindex } => prop_assert_eq!(there, Target::Pod(*ifindex)),
                Route::Blackhole => prop_assert_eq!(there, Target::Blackhole),
                Route::Unreachable => prop_assert_eq!(there, Target::Unreachable),
            }
        }
        // Nothing is left to do, and nothing is there that nobody needs.
        let before = kernel.writes;
        state.observe(kernel.snapshot());
        apply(&mut state, &mut kernel);
        let mut writes = Vec::new();
        state.rest(&mut writes);
        write(&mut state, &mut kernel, writes);
        prop_assert_eq!(kernel.writes, before);
        let named: BTreeSet<u32> = kernel.routes.values().filter_map(|target| match target {
            Target::Group(id) => Some(*id),
            _ => None,
        }).collect();
        let groups = kernel.objects.iter().filter(|(_, object)| matches!(object, Object::Group(_)));
        prop_assert_eq!(groups.map(|(id, _)| *id).collect::<BTreeSet<_>>(), named);
        let (want, there, objects) = state.counts();
        prop_assert_eq!((want, there, objects), (wanted.len(), kernel.routes.len(), kernel.objects.len()));
    }
}

#[test]
fn what_changes_while_all_is_read_is_newer_than_what_was_read() {
    let mut state = State::new(SETTINGS, links(&BTreeSet::new()), Snapshot::default());
    let mut kernel = Kernel::default();
    let [gone, stays, comes]: [IpNetwork; 3] =
        ["10.0.0.0/26", "10.0.1.0/26", "10.0.2.0/26"].map(|text| text.parse().unwrap());
    [gone, stays].iter().for_each(|destination| state.want(*destination, &Route::Blackhole));
    apply(&mut state, &mut kernel);
    let read = kernel.snapshot();
    state.begin_comparison();
    state.unwant(gone);
    state.want(comes, &Route::Blackhole);
    apply(&mut state, &mut kernel);
    state.compare_objects(read.objects);
    read.routes.into_iter().for_each(|seen| state.compare(seen));
    assert_eq!(state.end_comparison(), []);
    assert_eq!([gone, stays, comes].map(|it| state.actual(it).is_some()), [false, true, true]);

    kernel.routes.remove(&stays);
    assert_eq!(state.observe(kernel.snapshot()), [stays]);
}

/// A hundred routes by two neighbours on one link each.
fn hundred() -> (State, Kernel, [Route; 2]) {
    let mut kernel = Kernel::default();
    let mut state = State::new(SETTINGS, links(&kernel.down), Snapshot::default());
    let (both, one) = (Route::via([neighbour(1), neighbour(3)]), Route::via([neighbour(1)]));
    for n in 0..100 {
        state.want(destination(n), &both);
    }
    state.sweep();
    apply(&mut state, &mut kernel);
    assert_eq!((kernel.routes.len(), kernel.writes), (100, 103));
    (state, kernel, [both, one])
}

#[test]
fn a_next_hop_that_all_routes_lose_is_one_write() {
    let (mut state, mut kernel, [_, one]) = hundred();
    for n in 0..100 {
        state.want(destination(n), &one);
    }
    apply(&mut state, &mut kernel);
    assert_eq!(kernel.writes, 104);
    assert!(kernel.routes.values().all(|target| kernel.reached(*target).unwrap().len() == 1));
    assert_eq!(state.pending(), []);
}

#[test]
fn a_next_hop_that_some_routes_lose_is_avoided_by_all_until_it_is_known_who_stays() {
    let (mut state, mut kernel, [_, one]) = hundred();
    for n in 0..70 {
        state.want(destination(n), &one);
    }
    let mut writes = Vec::new();
    state.moves(&mut writes);
    write(&mut state, &mut kernel, writes);
    assert_eq!(kernel.writes, 104);
    assert!(kernel.routes.values().all(|target| kernel.reached(*target).unwrap().len() == 1));
    apply(&mut state, &mut kernel);
    let mut writes = Vec::new();
    state.rest(&mut writes);
    write(&mut state, &mut kernel, writes);
    let by = |n: u8| kernel.reached(kernel.routes[&destination(n)]).unwrap().len();
    assert_eq!((by(0), by(69), by(70), by(99)), (1, 1, 2, 2));
}

#[test]
fn a_link_that_goes_under_all_routes_and_comes_back_is_two_writes() {
    let (mut state, mut kernel, _) = hundred();
    kernel.set_link(2, false);
    state.observe_objects(kernel.objects.clone());
    state.connect(links(&kernel.down));
    apply(&mut state, &mut kernel);
    assert_eq!(kernel.writes, 103, "the kernel has done it");
    kernel.set_link(2, true);
    state.connect(links(&kernel.down));
    apply(&mut state, &mut kernel);
    assert_eq!(kernel.writes, 105, "the leg, and the group");
    assert!(kernel.routes.values().all(|target| kernel.reached(*target).unwrap().len() == 2));
}

#[test]
fn a_network_that_is_away_for_a_moment_keeps_what_the_kernel_still_has() {
    let (mut state, mut kernel, _) = hundred();
    state.connect(links(&[1, 2].into()));
    apply(&mut state, &mut kernel);
    assert_eq!(kernel.writes, 103);
}

#[test]
fn what_is_not_reached_is_said_and_before_the_sweep_only_what_was_removed_on_purpose_goes() {
    let routes = [(destination(1), Target::Blackhole), (destination(2), Target::Blackhole)].into();
    let kernel = Kernel { routes, ..Kernel::default() };
    let mut state = State::new(SETTINGS, links(&[2].into()), kernel.snapshot());
    state.want(destination(3), &Route::via([neighbour(3)]));
    let mut writes = Vec::new();
    let Plan::Impossible(reason) = state.plan(destination(3), &mut writes) else { panic!("{writes:?}") };
    assert!(reason.starts_with("next hop 192.0.2.3 is on no connected network"), "{reason}");
    state.unwant(destination(1));
    assert_eq!(state.pending(), [destination(1), destination(3)]);
    state.sweep();
    assert_eq!(state.pending(), [destination(1), destination(2), destination(3)]);
}

#[test]
fn routes_of_another_table_or_metric_go_with_the_sweep() {
    let elsewhere = Settings { table: 100, metric: 13 };
    let seen = Seen { destination: destination(1), target: Target::Blackhole, settings: elsewhere };
    let snapshot = Snapshot { routes: vec![seen], ..Snapshot::default() };
    let mut state = State::new(SETTINGS, Links::default(), snapshot);
    let mut writes = Vec::new();
    state.rest(&mut writes);
    assert_eq!(writes, []);
    state.sweep();
    state.rest(&mut writes);
    assert_eq!(writes, [Write::Stray(seen)]);
}
