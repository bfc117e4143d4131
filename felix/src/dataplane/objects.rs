//! Next-hop objects: groups that routes name, and the legs groups are made of. A value in memory.
//!
//! ```text
//!   10.0.1.0/26 ─┐                    ┌─▶ leg  192.0.2.1 by eth0
//!   10.0.2.0/26 ─┼─▶ group of two ────┤
//!      …         ┘                    └─▶ leg  192.0.2.2 by eth0 ◀── group of one ◀── 10.9.0.0/26
//! ```
//!
//! A group is made of what can be reached of its next hops. The kernel takes legs away by itself when their interface
//! goes or loses its carrier, takes them out of their groups, and with a group's last leg the group and every route that
//! names it, without a word: [`Objects::observe`] finds out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::types::ScopedAddr;
use rustc_hash::{FxHashMap, FxHashSet};

use super::next_hops::{Links, NextHop, NextHops};

/// Numbers of our objects begin here, far above those that programs choose or the kernel gives.
const FIRST_ID: u32 = u32::from_be_bytes(*b"M\0\0\x01");

/// A next-hop object of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A neighbour.
    Leg {
        /// Its address.
        gateway: IpAddr,
        /// The interface it is on.
        ifindex: u32,
    },
    /// Legs by their numbers, in order, with their weights.
    Group(Vec<(u32, u8)>),
}

/// A write to the kernel's objects; what was there before, for the case that it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectWrite {
    /// Its number.
    pub id: u32,
    /// None: nothing was there.
    pub before: Option<Object>,
    /// None: it is removed.
    pub after: Option<Object>,
}

#[derive(Debug)]
struct Group {
    hops: NextHops,
    /// Some of them, as long as the others are believed lost.
    narrowed: Option<NextHops>,
    /// Routes in the kernel that name it.
    users: usize,
    /// Routes wanted by it.
    wants: usize,
    /// What [`Objects::ready`] found, and in which epoch.
    found: Option<(u64, Result<(), Arc<str>>)>,
}

impl Group {
    fn new(hops: NextHops) -> Self {
        Self { hops, narrowed: None, users: 0, wants: 0, found: None }
    }
}

/// All of our objects: wanted, and as the kernel is believed to hold them.
#[derive(Debug)]
pub struct Objects {
    links: Links,
    groups: BTreeMap<u32, Group>,
    by_hops: FxHashMap<NextHops, u32>,
    actual: BTreeMap<u32, Object>,
    legs: FxHashMap<(IpAddr, u32), u32>,
    /// How a neighbour was last reached: a leg that the kernel holds stays in use while its network is away for a moment.
    last: FxHashMap<ScopedAddr, u32>,
    /// Legs the kernel refuses; not tried again before something changes.
    refused: FxHashSet<(IpAddr, u32)>,
    next: u32,
    /// Raised when what was found of groups may be otherwise now.
    epoch: u64,
}

impl Objects {
    /// None yet.
    pub fn new(links: Links) -> Self {
        Self {
            links,
            groups: BTreeMap::new(),
            by_hops: FxHashMap::default(),
            actual: BTreeMap::new(),
            legs: FxHashMap::default(),
            last: FxHashMap::default(),
            refused: FxHashSet::default(),
            next: FIRST_ID,
            epoch: 0,
        }
    }

    /// What is connected is this now.
    pub fn connect(&mut self, links: Links) {
        self.links = links;
        self.forgive();
    }

    /// What was refused is worth another try.
    pub fn forgive(&mut self) {
        self.refused.clear();
        self.doubt();
    }

    /// What was found of groups may be otherwise now.
    pub fn doubt(&mut self) {
        self.epoch += 1;
    }

    /// The number of the group of these next hops, whether or not the kernel holds it.
    pub fn group_of(&mut self, hops: &NextHops) -> u32 {
        if let Some(id) = self.by_hops.get(hops) {
            return *id;
        }
        let id = self.fresh();
        self.by_hops.insert(hops.clone(), id);
        self.groups.insert(id, Group::new(hops.clone()));
        id
    }

    /// The next hops of a group.
    pub fn hops(&self, id: u32) -> Option<&NextHops> {
        self.groups.get(&id).map(|group| &group.hops)
    }

    /// Whether two groups lead to the same next hops.
    pub fn same(&self, one: u32, other: u32) -> bool {
        one == other || self.hops(one).is_some_and(|hops| self.hops(other) == Some(hops))
    }

    /// Counts routes in the kernel that name a group.
    pub fn use_by(&mut self, id: u32, more: isize) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.users = group.users.saturating_add_signed(more);
        }
    }

    /// Counts routes wanted by a group.
    pub fn want_by(&mut self, id: u32, more: isize) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.wants = group.wants.saturating_add_signed(more);
        }
    }

    /// Routes in the kernel that name a group.
    pub fn users(&self, id: u32) -> usize {
        self.groups.get(&id).map_or(0, |group| group.users)
    }

    /// Routes wanted by a group.
    pub fn wants(&self, id: u32) -> usize {
        self.groups.get(&id).map_or(0, |group| group.wants)
    }

    /// Objects of ours in the kernel.
    pub fn installed(&self) -> usize {
        self.actual.len()
    }

    /// Writes what is missing of a group, before a route names it. Writes are taken for done until they are refused.
    ///
    /// # Errors
    /// When none of its next hops can be reached, in words.
    pub fn ready(
        &mut self,
        id: u32,
        pods: impl Fn(IpAddr) -> Option<u32>,
        writes: &mut Vec<ObjectWrite>,
    ) -> Result<(), Arc<str>> {
        let Some(group) = self.groups.get(&id) else { return Err("its next hops are not known".into()) };
        if let Some((epoch, found)) = &group.found
            && *epoch == self.epoch
        {
            return found.clone();
        }
        let hops = group.narrowed.as_ref().unwrap_or(&group.hops).clone();
        let members = self.members(&hops, pods, writes);
        let found = if members.is_empty() {
            Err(format!("next hop {hops} is on no connected network, or the link to it has no carrier")
                .into())
        } else {
            self.put(id, Some(Object::Group(members)), writes);
            Ok(())
        };
        let epoch = self.epoch;
        if let Some(group) = self.groups.get_mut(&id) {
            group.found = Some((epoch, found.clone()));
        }
        found
    }

    /// The legs to those of `hops` that can be reached.
    fn members(
        &mut self,
        hops: &NextHops,
        pods: impl Fn(IpAddr) -> Option<u32>,
        writes: &mut Vec<ObjectWrite>,
    ) -> Vec<(u32, u8)> {
        let reached = hops.iter().filter_map(|hop| Some((self.leg(*hop, &pods, writes)?, hop.weight)));
        let mut members: Vec<(u32, u8)> = reached.collect();
        members.sort_unstable();
        members.dedup_by_key(|(leg, _)| *leg);
        members
    }

    /// The leg to a neighbour, made if need be.
    fn leg(
        &mut self,
        hop: NextHop,
        pods: impl Fn(IpAddr) -> Option<u32>,
        writes: &mut Vec<ObjectWrite>,
    ) -> Option<u32> {
        let address = hop.address;
        let link = pods(address.addr).or_else(|| self.links.leading_to(address));
        let key = link.map(|link| (address.addr, link)).filter(|key| !self.refused.contains(key));
        let Some(key) = key else {
            return self.last.get(&address).copied().filter(|leg| self.actual.contains_key(leg));
        };
        let id = match self.legs.get(&key) {
            Some(id) => *id,
            None => self.fresh(),
        };
        self.legs.insert(key, id);
        self.last.insert(address, id);
        self.put(id, Some(Object::Leg { gateway: key.0, ifindex: key.1 }), writes);
        Some(id)
    }

    fn put(&mut self, id: u32, after: Option<Object>, writes: &mut Vec<ObjectWrite>) {
        if self.actual.get(&id) != after.as_ref() {
            let before = match &after {
                Some(object) => self.actual.insert(id, object.clone()),
                None => self.actual.remove(&id),
            };
            writes.push(ObjectWrite { id, before, after });
        }
    }

    /// Writes what is different of the groups in use.
    pub fn settle(&mut self, pods: impl Fn(IpAddr) -> Option<u32>, writes: &mut Vec<ObjectWrite>) {
        let used = self.groups.iter().filter(|(_, group)| group.users > 0).map(|(id, _)| *id);
        for id in used.collect::<Vec<_>>() {
            // One whose next hops are all out of reach stays as it is: the speaker will say where to go instead.
            let _ = self.ready(id, &pods, writes);
        }
    }

    /// All that name `from` are to lead where `to` leads: the group itself is changed, in one write, and no route.
    /// `false` where nothing leads there.
    pub fn turn(
        &mut self,
        from: u32,
        to: u32,
        pods: impl Fn(IpAddr) -> Option<u32>,
        writes: &mut Vec<ObjectWrite>,
    ) -> bool {
        let Some(hops) = self.hops(to).cloned() else { return false };
        let members = self.members(&hops, pods, writes);
        let is_named = self.users(to) > 0;
        let Some(group) = self.groups.get_mut(&from).filter(|_| !members.is_empty()) else { return false };
        if self.by_hops.get(&group.hops) == Some(&from) {
            self.by_hops.remove(&group.hops);
        }
        *group = Group { hops: hops.clone(), narrowed: None, found: None, ..*group };
        if !is_named {
            // What comes later finds the one that is there.
            self.by_hops.insert(hops, from);
        }
        self.put(from, Some(Object::Group(members)), writes);
        true
    }

    /// Many leave `from` for some of its next hops: for now it is made of these alone.
    pub fn narrow(
        &mut self,
        from: u32,
        to: u32,
        pods: impl Fn(IpAddr) -> Option<u32>,
        writes: &mut Vec<ObjectWrite>,
    ) {
        let Some(fewer) = self.hops(to).cloned() else { return };
        let Some(group) = self.groups.get_mut(&from) else { return };
        if group.narrowed.is_none() && fewer.are_fewer_of(&group.hops) {
            group.narrowed = Some(fewer);
            group.found = None;
            // Where none of these is reached it stays as it is.
            let _ = self.ready(from, pods, writes);
        }
    }

    /// What is still wanted by a group has all of its next hops again; whether there was any.
    pub fn widen(&mut self) -> bool {
        self.doubt();
        let mut any = false;
        for group in self.groups.values_mut() {
            any |= group.narrowed.take().is_some();
        }
        any
    }

    /// Removes what no route needs.
    pub fn tidy(&mut self, writes: &mut Vec<ObjectWrite>) {
        let idle = self.groups.iter().filter(|(_, group)| group.users == 0 && group.wants == 0);
        for id in idle.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(group) = self.groups.remove(&id)
                && self.by_hops.get(&group.hops) == Some(&id)
            {
                self.by_hops.remove(&group.hops);
            }
        }
        let mut named = FxHashSet::default();
        for (id, object) in &self.actual {
            if let (true, Object::Group(members)) = (self.groups.contains_key(id), object) {
                named.insert(*id);
                named.extend(members.iter().map(|(leg, _)| *leg));
            }
        }
        let idle = self.actual.iter().filter(|(id, _)| !named.contains(id));
        let mut idle: Vec<(bool, u32)> =
            idle.map(|(id, object)| (matches!(object, Object::Leg { .. }), *id)).collect();
        // Groups before their legs: the kernel would change each group by itself.
        idle.sort_unstable();
        for (_, id) in idle {
            self.put(id, None, writes);
            self.legs.retain(|_, leg| *leg != id);
            self.last.retain(|_, leg| *leg != id);
        }
    }

    /// The kernel did not do it.
    pub fn refuse(&mut self, write: ObjectWrite) {
        self.doubt();
        if let Some(Object::Leg { gateway, ifindex }) = write.after {
            self.refused.insert((gateway, ifindex));
        }
        match write.before {
            Some(object) => drop(self.actual.insert(write.id, object)),
            None => drop(self.actual.remove(&write.id)),
        }
    }

    /// The kernel's objects are these. Groups of an earlier run are known by the next hops they have now.
    pub fn observe(&mut self, actual: BTreeMap<u32, Object>) {
        self.doubt();
        self.legs.clear();
        for (id, object) in &actual {
            self.next = self.next.max(id.saturating_add(1));
            if let Object::Leg { gateway, ifindex } = object {
                self.legs.insert((*gateway, *ifindex), *id);
                // A leg that has not been removed yet is not the one in use.
                self.last.entry(self.links.scoped(*gateway, *ifindex)).or_insert(*id);
            }
        }
        for (id, object) in &actual {
            let Object::Group(members) = object else { continue };
            if self.groups.contains_key(id) {
                continue;
            }
            let hops = members.iter().filter_map(|(leg, weight)| match actual.get(leg)? {
                Object::Leg { gateway, ifindex } => {
                    Some(NextHop { address: self.links.scoped(*gateway, *ifindex), weight: *weight })
                }
                Object::Group(_) => None,
            });
            let hops = NextHops::from_iter(hops);
            self.by_hops.entry(hops.clone()).or_insert(*id);
            self.groups.insert(*id, Group::new(hops));
        }
        self.actual = actual;
    }

    /// Whether the kernel is believed to hold a group of this number.
    pub fn is_there(&self, id: u32) -> bool {
        matches!(self.actual.get(&id), Some(Object::Group(_)))
    }

    fn fresh(&mut self) -> u32 {
        let id = self.next;
        self.next = self.next.checked_add(1).unwrap_or(FIRST_ID);
        id
    }
}
