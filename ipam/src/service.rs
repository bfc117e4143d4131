//! Addresses of Services of type LoadBalancer. Pure: from what all ask for and have to what each shall have.
//!
//! What Services have is written in their own statuses and nowhere else. So what is computed here from them is the same
//! after every restart, whoever computes it: what one has, it keeps, as long as it may; of two that have one address and
//! may not share it, the older does.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::choice::Wishes;
use crate::cidr::{Cidr, Family};
use crate::pool::Pool;

/// What one Service asks for and has.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Which Service: `namespace/name`.
    pub name: Arc<str>,
    /// When it was made, in seconds: of two the older comes first, then the first by name.
    pub created: i64,
    /// One address of each of these.
    pub families: BTreeSet<Family>,
    /// Whether some families are better than none.
    pub partial: bool,
    /// Pools and addresses it names.
    pub wishes: Wishes,
    /// Names of the pools it has addresses of when it names none, in order of preference.
    pub pools: Vec<String>,
    /// How it shares an address.
    pub share: Share,
    /// What it has.
    pub held: Vec<IpAddr>,
}

/// What Services must agree in to have one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The same of both; none: with nobody.
    pub key: Option<Arc<str>>,
    /// None of both: protocol and port.
    pub ports: BTreeSet<(Arc<str>, u16)>,
    /// The same of both. Where packets only reach endpoints of the node they come to, these must be of the same pods: a
    /// node is chosen by the address alone. None: they reach all.
    pub pods: Option<String>,
}

/// What one Service shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// In order of family.
    pub addresses: Vec<IpAddr>,
    /// Why it is not all it asks for.
    pub why: Option<Why>,
}

/// Why a Service cannot have an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// None is for it.
    #[error(
        "no IPPool with allowedUses [Services] is for it that has {0} addresses: make one, or see the selectors of those there are"
    )]
    NoPool(Family),
    /// An annotation names one that it cannot have addresses of.
    #[error("there is no IPPool \"{0}\" with allowedUses [Services], or it is disabled or not in order")]
    NotUsable(String),
    /// All addresses are taken.
    #[error("no address is free in IPPool {}", .0.join(", "))]
    Full(Vec<String>),
    /// The address that is asked for is nobody's to give.
    #[error("{0} is in no IPPool with allowedUses [Services] that is for it")]
    Outside(IpAddr),
    /// Its family is not one of the Service's.
    #[error("{0} is asked for, and the Service's ipFamilies have no {family}", family = Family::of(*.0))]
    OtherFamily(IpAddr),
    /// Another has it.
    #[error("{address} is the address of Service {by}: {reason}")]
    Taken {
        /// The address that is asked for.
        address: IpAddr,
        /// Who has it.
        by: Arc<str>,
        /// Why it is not shared.
        reason: &'static str,
    },
}

/// What every Service shall have. `others` have addresses of the pools that are not ours to give; `reserved` ranges are
/// given only to who asks for them.
pub fn assign(
    asks: &[Ask],
    others: &BTreeMap<Arc<str>, Vec<IpAddr>>,
    pools: &[Pool],
    reserved: &[Cidr],
) -> BTreeMap<Arc<str>, Assigned> {
    let mut desk = Desk { pools, reserved, holders: BTreeMap::new(), next: BTreeMap::new() };
    for (name, addresses) in others {
        for address in addresses {
            desk.take(*address, name, &Share::default());
        }
    }
    let mut asks: Vec<&Ask> = asks.iter().collect();
    asks.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    let mut all: BTreeMap<Arc<str>, Assigned> = BTreeMap::new();
    // What is had comes before what is wanted, whoever is older.
    for ask in &asks {
        all.insert(Arc::clone(&ask.name), Assigned { addresses: desk.keep(ask), why: None });
    }
    for ask in asks {
        if let Some(assigned) = all.get_mut(&ask.name) {
            desk.complete(ask, assigned);
        }
    }
    all
}

/// The pools, and who has which address.
struct Desk<'a> {
    pools: &'a [Pool],
    reserved: &'a [Cidr],
    holders: BTreeMap<IpAddr, Vec<(Arc<str>, Share)>>,
    /// By name of the pool: below it no address is free.
    next: BTreeMap<&'a str, IpAddr>,
}

impl<'a> Desk<'a> {
    fn take(&mut self, address: IpAddr, name: &Arc<str>, share: &Share) {
        self.holders.entry(address).or_default().push((Arc::clone(name), share.clone()));
    }

    /// Whether this Service may have the address beside those that have it.
    fn may_have(&self, address: IpAddr, ask: &Ask) -> Result<(), Why> {
        for (name, share) in self.holders.get(&address).into_iter().flatten() {
            if let Err(reason) = ask.share.agrees(share) {
                return Err(Why::Taken { address, by: Arc::clone(name), reason });
            }
        }
        Ok(())
    }

    /// What it has and may keep, taken.
    fn keep(&mut self, ask: &Ask) -> Vec<IpAddr> {
        let mut kept: Vec<IpAddr> = Vec::new();
        for family in &ask.families {
            let named = self.named(ask, *family);
            let may_stay = |address: &&IpAddr| {
                let pool = self.pools.iter().find(|pool| pool.cidr.contains(**address));
                let asked = ask.wishes.ips.iter().find(|wish| Family::of(**wish) == *family);
                Family::of(**address) == *family
                    && pool.is_some_and(|pool| {
                        named.is_empty() || named.iter().any(|wish| wish.name == pool.name)
                    })
                    && asked.is_none_or(|asked| asked == *address)
                    && self.may_have(**address, ask).is_ok()
            };
            let address = ask.held.iter().find(may_stay).copied();
            if let Some(address) = address {
                self.take(address, &ask.name, &ask.share);
                kept.push(address);
            }
        }
        kept
    }

    /// Takes what it still lacks.
    fn complete(&mut self, ask: &Ask, assigned: &mut Assigned) {
        let lacking: Vec<Family> = {
            let has = |family: &Family| assigned.addresses.iter().any(|has| Family::of(*has) == *family);
            ask.families.iter().copied().filter(|family| !has(family)).collect()
        };
        if let Some(foreign) = ask.wishes.ips.iter().find(|ip| !ask.families.contains(&Family::of(**ip))) {
            assigned.why = Some(Why::OtherFamily(*foreign));
        }
        let mut found = Vec::new();
        for family in lacking {
            match self.find(ask, family) {
                Ok(address) => found.push(address),
                Err(why) => assigned.why = Some(why),
            }
        }
        let whole = assigned.addresses.len() + found.len() == ask.families.len();
        if whole || ask.partial || !assigned.addresses.is_empty() {
            for address in &found {
                self.take(*address, &ask.name, &ask.share);
            }
            assigned.addresses.extend(found);
            assigned.addresses.sort_by_key(|address| Family::of(*address));
        }
        let asked = ask.wishes.ips.iter().all(|ip| assigned.addresses.contains(ip));
        if ask.partial && asked && !assigned.addresses.is_empty() {
            assigned.why = None;
        }
    }

    fn find(&mut self, ask: &Ask, family: Family) -> Result<IpAddr, Why> {
        let pools = self.pools_of(ask, family)?;
        if let Some(address) = ask.wishes.ips.iter().copied().find(|ip| Family::of(*ip) == family) {
            if !pools.iter().any(|pool| pool.cidr.contains(address)) {
                return Err(Why::Outside(address));
            }
            return self.may_have(address, ask).map(|()| address);
        }
        if pools.is_empty() {
            return Err(Why::NoPool(family));
        }
        if ask.share.key.is_some() {
            for pool in &pools {
                let range = self.holders.range(pool.cidr.address()..=pool.cidr.last());
                let mut shared =
                    range.filter(|(_, by)| by.iter().any(|(_, share)| share.key == ask.share.key));
                if let Some((address, _)) = shared.find(|(address, _)| self.may_have(**address, ask).is_ok())
                {
                    return Ok(*address);
                }
            }
        }
        let free = pools.iter().find_map(|pool| self.free(pool));
        free.ok_or_else(|| Why::Full(pools.iter().map(|pool| pool.name.clone()).collect()))
    }

    /// Where new addresses of it may come from.
    fn pools_of(&self, ask: &Ask, family: Family) -> Result<Vec<&'a Pool>, Why> {
        let pools: &'a [Pool] = self.pools;
        let usable = |name: &str| pools.iter().find(|pool| pool.is_called(name) && !pool.disabled);
        if let Some(name) = ask.wishes.pool_names(family).into_iter().find(|name| usable(name).is_none()) {
            return Err(Why::NotUsable(name.to_owned()));
        }
        let named = self.named(ask, family);
        if !named.is_empty() {
            return Ok(named);
        }
        let selecting = ask.pools.iter().filter_map(|name| usable(name));
        Ok(selecting.filter(|pool| pool.family() == family).collect())
    }

    /// The pools of a family that it names, whether or not they give anything out.
    fn named(&self, ask: &Ask, family: Family) -> Vec<&'a Pool> {
        let pools: &'a [Pool] = self.pools;
        let names = ask.wishes.pool_names(family);
        let named = names.into_iter().filter_map(|name| pools.iter().find(|pool| pool.is_called(name)));
        named.filter(|pool| pool.family() == family).collect()
    }

    /// The lowest address nobody has, nor is kept back.
    fn free(&mut self, pool: &'a Pool) -> Option<IpAddr> {
        let cidr = pool.cidr;
        let behind = |address: IpAddr| cidr.nth(cidr.offset(address)?.checked_add(1)?);
        let mut next = Some(self.next.get(pool.name.as_str()).copied().unwrap_or(cidr.address()));
        while let Some(address) = next {
            if let Some(range) = self.reserved.iter().find(|range| range.contains(address)) {
                next = if range.covers(cidr) { None } else { behind(range.last()) };
            } else if self.holders.contains_key(&address) {
                next = behind(address);
            } else {
                self.next.insert(&pool.name, address);
                return Some(address);
            }
        }
        self.next.insert(&pool.name, cidr.last());
        None
    }
}

impl Share {
    /// Whether two may have one address, or why not.
    fn agrees(&self, other: &Self) -> Result<(), &'static str> {
        match (&self.key, &other.key) {
            (Some(mine), Some(theirs)) if mine == theirs => {}
            (None, _) | (_, None) => {
                return Err("only Services that both name one shared-address key have one address");
            }
            _ => return Err("their shared-address keys differ"),
        }
        if !self.ports.is_disjoint(&other.ports) {
            return Err("both have a port of one protocol and number");
        }
        if self.pods != other.pods {
            return Err("with externalTrafficPolicy Local, both must have it and select the same pods");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::choice::{IP_POOLS, IPS};

    fn pool(name: &str, cidr: &str) -> Pool {
        let cidr: Cidr = cidr.parse().unwrap();
        let length = cidr.length();
        Pool { for_pods: false, for_services: true, ..Pool::new(name, cidr, length) }
    }

    fn pools() -> Vec<Pool> {
        vec![
            pool("a", "192.0.2.0/30"),
            pool("b", "198.51.100.0/31"),
            pool("six", "fd00:100::/112"),
            Pool { disabled: true, ..pool("off", "203.0.113.0/28") },
        ]
    }

    fn ask(name: &str) -> Ask {
        Ask {
            name: name.into(),
            created: 0,
            families: [Family::Ipv4].into(),
            partial: false,
            wishes: Wishes::default(),
            pools: ["a", "b", "six", "off"].map(str::to_owned).into(),
            share: Share::default(),
            held: Vec::new(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn wishes(annotation: &str, text: &str) -> Wishes {
        Wishes::read(&[(annotation.to_owned(), text.to_owned())].into()).unwrap()
    }

    fn shared(key: &str, port: u16) -> Share {
        Share { key: Some(key.into()), ports: [("TCP".into(), port)].into(), pods: None }
    }

    /// Addresses, and why there are not more.
    fn assigned(asks: &[Ask]) -> BTreeMap<String, (String, Option<Why>)> {
        let all = assign(asks, &BTreeMap::new(), &pools(), &["192.0.2.1/32".parse().unwrap()]);
        let text = |assigned: Assigned| {
            let texts: Vec<String> = assigned.addresses.iter().map(ToString::to_string).collect();
            (texts.join(" "), assigned.why)
        };
        all.into_iter().map(|(name, assigned)| (name.to_string(), text(assigned))).collect()
    }

    fn one(ask: Ask) -> (String, Option<Why>) {
        assigned(&[ask]).into_values().next().unwrap()
    }

    #[test]
    fn the_older_comes_first_and_what_is_kept_back_is_passed_over() {
        let young = Ask { created: 1, ..ask("a") };
        let all = assigned(&[young, ask("b"), ask("c"), ask("d"), ask("e"), Ask { created: 2, ..ask("f") }]);
        let given: Vec<(&str, &str)> = all.iter().map(|(name, (given, _))| (&**name, &**given)).collect();
        assert_eq!(
            given,
            [
                ("a", "198.51.100.1"),
                ("b", "192.0.2.0"),
                ("c", "192.0.2.2"),
                ("d", "192.0.2.3"),
                ("e", "198.51.100.0"),
                ("f", ""),
            ]
        );
        let why = all["f"].1.as_ref().unwrap().to_string();
        assert_eq!(why, "no address is free in IPPool a, b");
    }

    #[test]
    fn what_is_had_is_kept_though_the_pool_is_disabled_and_an_older_one_wants_it() {
        let held = Ask { created: 9, held: vec![ip("203.0.113.7")], ..ask("held") };
        assert_eq!(one(held), ("203.0.113.7".to_owned(), None));
        let held = Ask { created: 9, held: vec![ip("192.0.2.2")], ..ask("held") };
        let rival = Ask { wishes: wishes(IPS, "192.0.2.2"), ..ask("rival") };
        let all = assigned(&[rival, held]);
        assert_eq!(all["held"].0, "192.0.2.2");
        assert!(
            matches!(&all["rival"].1, Some(Why::Taken { by, .. }) if &**by == "held"),
            "{:?}",
            all["rival"]
        );
    }

    #[test]
    fn of_two_that_have_one_address_the_older_keeps_it_and_the_other_has_another() {
        let same = || vec![ip("192.0.2.2")];
        let old = Ask { held: same(), ..ask("old") };
        let all = assigned(&[Ask { created: 1, held: same(), ..ask("young") }, old]);
        assert_eq!((&*all["old"].0, &*all["young"].0), ("192.0.2.2", "192.0.2.0"));
    }

    #[test]
    fn what_is_asked_for_by_name_is_given_or_refused_in_words() {
        let wishing = |annotation, text| one(Ask { wishes: wishes(annotation, text), ..ask("a") });
        assert_eq!(wishing(IPS, "192.0.2.1").0, "192.0.2.1", "kept back for who asks");
        assert_eq!(wishing(IP_POOLS, "b").0, "198.51.100.0");
        for (annotation, text, words) in [
            (IPS, "203.0.114.1", "203.0.114.1 is in no IPPool"),
            (IPS, "203.0.113.1", "203.0.113.1 is in no IPPool"),
            (IPS, "fd00:100::1", "have no IPv6"),
            (IP_POOLS, "nowhere", "no IPPool \"nowhere\""),
            (IP_POOLS, "off", "disabled"),
        ] {
            let (given, why) = wishing(annotation, text);
            let why = why.unwrap().to_string();
            assert!(why.contains(words), "{why}");
            assert!(given.is_empty() || text == "fd00:100::1", "{given}");
        }
        let moved = Ask { held: vec![ip("192.0.2.2")], wishes: wishes(IP_POOLS, "b"), ..ask("a") };
        assert_eq!(one(moved).0, "198.51.100.0", "what it asks for now is not what it has");
    }

    #[test]
    fn both_families_or_none_unless_one_is_enough() {
        let both: BTreeSet<Family> = Family::ALL.into();
        let dual = || Ask { families: both.clone(), ..ask("a") };
        assert_eq!(one(dual()).0, "192.0.2.0 fd00:100::");
        let (given, why) = one(Ask { pools: vec!["a".to_owned()], ..dual() });
        assert_eq!((given.as_str(), why), ("", Some(Why::NoPool(Family::Ipv6))));
        let (given, why) = one(Ask { pools: vec!["a".to_owned()], partial: true, ..dual() });
        assert_eq!((given.as_str(), why), ("192.0.2.0", None));
    }

    #[test]
    fn one_address_is_shared_by_those_that_agree() {
        let of = |name: &str, share: Share| Ask { share, ..ask(name) };
        let all =
            assigned(&[of("a", shared("web", 80)), of("b", shared("web", 443)), of("c", shared("web", 80))]);
        assert_eq!((&*all["a"].0, &*all["b"].0, &*all["c"].0), ("192.0.2.0", "192.0.2.0", "192.0.2.2"));
        let wish = |share: Share| Ask { wishes: wishes(IPS, "192.0.2.0"), created: 1, ..of("b", share) };
        let local = Share { pods: Some("app=web".to_owned()), ..shared("web", 443) };
        for (share, words) in [
            (shared("web", 80), "one protocol and number"),
            (shared("db", 443), "keys differ"),
            (Share::default(), "both name one shared-address key"),
            (local.clone(), "select the same pods"),
        ] {
            let all = assigned(&[of("a", shared("web", 80)), wish(share)]);
            let why = all["b"].1.as_ref().unwrap().to_string();
            assert!(why.contains(words), "{why}");
        }
        let first = Share { ports: [("TCP".into(), 80)].into(), ..local.clone() };
        assert_eq!(assigned(&[of("a", first), wish(local)])["b"], ("192.0.2.0".to_owned(), None));
    }

    #[test]
    fn an_address_another_implementation_gave_is_nobodys() {
        let others = [("other".into(), vec![ip("192.0.2.0")])].into();
        let all = assign(&[ask("a")], &others, &pools(), &[]);
        assert_eq!(all["a"].addresses, [ip("192.0.2.1")]);
    }

    fn some_ask() -> impl Strategy<Value = Ask> {
        let share = (0..3_u8, 0..3_u16, any::<bool>());
        (0..12_u8, 0..4_i64, 0..8_u8, share, 0..3_u8).prop_map(|(name, created, wish, share, families)| {
            let share = match share {
                (0, ..) => Share::default(),
                (key, port, local) => Share {
                    pods: local.then(|| format!("app={}", port % 2)),
                    ..shared(&key.to_string(), port)
                },
            };
            let wishes = match wish {
                0 => wishes(IPS, "192.0.2.2"),
                1 => wishes(IP_POOLS, "b"),
                2 => wishes(IPS, "192.0.2.1, fd00:100::7"),
                _ => Wishes::default(),
            };
            let families = match families {
                0 => [Family::Ipv4].into(),
                1 => [Family::Ipv6].into(),
                _ => Family::ALL.into(),
            };
            Ask { created, wishes, share, families, ..ask(&format!("s{name}")) }
        })
    }

    proptest! {
        /// Services come, go and ask for something else, and each time all is computed from their statuses alone: no two
        /// have one address that may not share it, nobody loses one but for what it asks itself, and a second look
        /// changes nothing.
        #[test]
        fn no_address_is_given_twice_and_none_is_taken_away(rounds in prop::collection::vec(prop::collection::vec(some_ask(), 0..10), 1..6)) {
            let mut statuses: BTreeMap<Arc<str>, (Ask, Vec<IpAddr>)> = BTreeMap::new();
            for round in rounds {
                let mut asks: BTreeMap<Arc<str>, Ask> = BTreeMap::new();
                for mut ask in round {
                    ask.held = statuses.get(&ask.name).map(|(_, held)| held.clone()).unwrap_or_default();
                    asks.insert(Arc::clone(&ask.name), ask);
                }
                let list: Vec<Ask> = asks.values().cloned().collect();
                let all = assign(&list, &BTreeMap::new(), &pools(), &[]);
                for (name, assigned) in &all {
                    let ask = &asks[name];
                    let families: BTreeSet<Family> = assigned.addresses.iter().map(|ip| Family::of(*ip)).collect();
                    prop_assert_eq!(families.len(), assigned.addresses.len(), "one of each family");
                    prop_assert!(families.is_subset(&ask.families));
                    prop_assert_eq!(assigned.why.is_none(), assigned.addresses.len() == ask.families.len()
                        && ask.wishes.ips.iter().all(|ip| assigned.addresses.contains(ip)), "{:?}", assigned);
                    for (other, theirs) in all.iter().filter(|(other, _)| *other != name) {
                        if theirs.addresses.iter().any(|ip| assigned.addresses.contains(ip)) {
                            prop_assert_eq!(ask.share.agrees(&asks[other].share), Ok(()), "{} and {}", name, other);
                        }
                    }
                    if let Some((before, held)) = statuses.get(name)
                        && (before.wishes == ask.wishes && before.share == ask.share && before.families == ask.families)
                        && statuses.iter().all(|(other, (_, theirs))| other == name || theirs.iter().all(|ip| !held.contains(ip)))
                    {
                        prop_assert!(held.iter().all(|ip| assigned.addresses.contains(ip)), "{} lost {:?}", name, held);
                    }
                }
                statuses = all.iter().map(|(name, assigned)| {
                    (Arc::clone(name), (asks[name].clone(), assigned.addresses.clone()))
                }).collect();
                let settled: Vec<Ask> = list.into_iter().map(|ask| {
                    let held = all[&ask.name].addresses.clone();
                    Ask { held, ..ask }
                }).collect();
                let again = assign(&settled, &BTreeMap::new(), &pools(), &[]);
                for (name, assigned) in &all {
                    prop_assert_eq!(&again[name].addresses, &assigned.addresses, "{} moves", name);
                }
            }
        }
    }
}
