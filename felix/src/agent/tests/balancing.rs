//! Several agents that give addresses through an API that loses requests and answers, while their watches are behind and
//! they die and come back: no two Services ever have one address, and in the end all have one that can.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use manx_ipam::crd::{AllowedUse, IPPool, IPPoolSpec};
use proptest::prelude::*;

use super::super::balancing::{Grant, Granted};
use super::super::core::{Core, Effect};
use super::super::election::{Bid, Record};
use super::machine::{Links, core_of, namespace, node, object};
use super::services::balancer;
use crate::model::Object;
use crate::model::service::Service;
use crate::watch::{Change, Update};

const AGENTS: usize = 3;

/// One more than the pool has addresses.
const SERVICES: usize = 5;

/// What the API holds, and all it has ever told watchers.
#[derive(Default)]
struct Api {
    services: BTreeMap<String, Service>,
    log: Vec<(String, Option<Service>)>,
    lease: Option<Record>,
    writes: u64,
}

impl Api {
    fn set(&mut self, name: &str, service: Option<Service>) {
        self.writes += 1;
        let service = service.map(|service| Service { version: self.writes.to_string(), ..service });
        match &service {
            Some(service) => _ = self.services.insert(name.to_owned(), service.clone()),
            None => _ = self.services.remove(name),
        }
        self.log.push((name.to_owned(), service));
        let addresses: Vec<IpAddr> =
            self.services.values().flat_map(|service| service.ingress.clone()).collect();
        let distinct: BTreeSet<&IpAddr> = addresses.iter().collect();
        assert_eq!(distinct.len(), addresses.len(), "two Services have one address: {:?}", self.services);
    }

    fn give(&mut self, grant: &Grant) -> Granted {
        match self.services.get(&*grant.service).cloned() {
            Some(service) if service.version == grant.version => {
                self.set(&grant.service, Some(Service { ingress: grant.addresses.clone(), ..service }));
                Granted::Done
            }
            _ => Granted::Not,
        }
    }

    fn bid(&mut self, me: &str, bid: &Bid) -> Result<Option<Record>, ()> {
        if let Bid::Take { version, transitions } = bid {
            if self.lease.as_ref().map(|lease| &lease.version) != version.as_ref() {
                return Err(());
            }
            self.writes += 1;
            let version = self.writes.to_string();
            self.lease = Some(Record { holder: me.to_owned(), transitions: *transitions, version });
        }
        Ok(self.lease.clone())
    }
}

struct Agent {
    name: String,
    directory: tempfile::TempDir,
    core: Core,
    /// How much of the log its watch has told.
    seen: usize,
    /// What it asked of the API, and when.
    asked: VecDeque<(Effect, Instant)>,
    /// What the API has answered and it does not know yet.
    answers: VecDeque<Answer>,
}

enum Answer {
    Bid(super::super::election::Duty, Bid, Result<Option<Record>, ()>),
    Listed(Option<Vec<Object<Service>>>),
    Given(Vec<(Arc<str>, Granted)>),
    Nothing,
}

struct World {
    api: Api,
    agents: Vec<Agent>,
    now: Instant,
}

fn started(name: &str, directory: &tempfile::TempDir, api: &Api, now: Instant) -> Core {
    let mut core = core_of(name, directory.path().to_owned(), Links::default(), now);
    let spec = IPPoolSpec { allowed_uses: vec![AllowedUse::Services], ..IPPoolSpec::new("198.51.100.0/30") };
    let services = api.services.iter().map(|(name, service)| object(name, Ok(service.clone())));
    for update in [
        Update::Api(Ok(())),
        Update::Node(Change::Replace((1..=AGENTS).map(|agent| node(&format!("node{agent}"))).collect())),
        Update::Pod(Change::Replace(Vec::new())),
        Update::Namespace(Change::Replace(vec![namespace("shop", &[], &[])])),
        Update::NetworkPolicy(Change::Replace(Vec::new())),
        Update::ClusterNetworkPolicy(Change::Replace(Vec::new())),
        Update::Reservation(Change::Replace(Vec::new())),
        Update::Request(Change::Replace(Vec::new())),
        Update::Pool(Box::new(Change::Replace(vec![object("web", Ok(IPPool::new("web", spec)))]))),
        Update::Block(Change::Replace(Vec::new())),
        Update::Bgp(Change::Replace(Vec::new())),
        Update::Peer(Change::Replace(Vec::new())),
        Update::Filter(Change::Replace(Vec::new())),
        Update::Service(Change::Replace(services.collect())),
        Update::Slice(Change::Replace(Vec::new())),
    ] {
        core.update(update, now);
    }
    core
}

impl World {
    fn new() -> Self {
        let (api, now) = (Api::default(), Instant::now());
        let agents = (1..=AGENTS).map(|number| {
            let (name, directory) = (format!("node{number}"), tempfile::tempdir().unwrap());
            let core = started(&name, &directory, &api, now);
            Agent { name, directory, core, seen: 0, asked: VecDeque::new(), answers: VecDeque::new() }
        });
        Self { agents: agents.collect(), api, now }
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            for who in 0..AGENTS {
                self.agents[who].core.tick(self.now);
                self.collect(who);
            }
        }
    }

    fn collect(&mut self, who: usize) {
        let agent = &mut self.agents[who];
        loop {
            let effects = agent.core.effects(self.now);
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Bid(..) | Effect::ListServices | Effect::Give { .. } | Effect::Write(_) => {
                        agent.asked.push_back((effect, self.now));
                    }
                    Effect::Program { .. } if agent.core.in_sync() => agent.core.programmed(),
                    _ => {}
                }
            }
        }
    }

    /// The API acts on the oldest request of an agent, unless that was given up.
    fn act(&mut self, who: usize) {
        let agent = &mut self.agents[who];
        let Some((effect, at)) = agent.asked.pop_front() else { return };
        // A request takes no longer than its deadline.
        let late = self.now.saturating_duration_since(at) > Duration::from_secs(5);
        let answer = match effect {
            Effect::Bid(duty, bid) if late => Answer::Bid(duty, bid, Err(())),
            Effect::Bid(duty, bid) => {
                let lease = self.api.bid(&agent.name, &bid);
                Answer::Bid(duty, bid, lease)
            }
            Effect::ListServices if late => Answer::Listed(None),
            Effect::ListServices => {
                let services = self.api.services.iter();
                let all = services.map(|(name, service)| object(name, Ok(service.clone()))).collect();
                Answer::Listed(Some(all))
            }
            Effect::Give { grants, until } => {
                let may = !late && at < until;
                let mut give = |grant: &Grant| if may { self.api.give(grant) } else { Granted::Not };
                Answer::Given(grants.iter().map(|grant| (Arc::clone(&grant.service), give(grant))).collect())
            }
            _ => Answer::Nothing,
        };
        agent.answers.push_back(answer);
    }

    /// An agent hears the oldest answer, or only that there is none.
    fn answer(&mut self, who: usize, is_lost: bool) {
        let agent = &mut self.agents[who];
        match agent.answers.pop_front() {
            Some(Answer::Bid(duty, bid, lease)) => {
                let lease = if is_lost { Err(()) } else { lease };
                agent.core.bid_answered((duty, &bid), lease, self.now);
            }
            Some(Answer::Listed(services)) => {
                agent.core.listed_services(services.filter(|_| !is_lost), self.now);
            }
            Some(Answer::Given(outcomes)) => {
                let told = |outcome| if is_lost { Granted::Unknown } else { outcome };
                let outcomes = outcomes.into_iter().map(|(name, outcome)| (name, told(outcome))).collect();
                agent.core.given(outcomes, self.now);
            }
            Some(Answer::Nothing) => agent.core.written(Vec::new(), None, self.now),
            None => {}
        }
        self.collect(who);
    }

    fn watch(&mut self, who: usize) {
        let agent = &mut self.agents[who];
        if let Some((name, service)) = self.api.log.get(agent.seen) {
            agent.seen += 1;
            let change = match service {
                Some(service) => Change::Apply(object(name, Ok(service.clone()))),
                None => Change::Delete(name.clone()),
            };
            agent.core.update(Update::Service(change), self.now);
            self.collect(who);
        }
    }

    fn kill(&mut self, who: usize) {
        let agent = &mut self.agents[who];
        agent.core = started(&agent.name, &agent.directory, &self.api, self.now);
        agent.seen = self.api.log.len();
        agent.asked.clear();
        agent.answers.clear();
        self.collect(who);
    }

    /// All that is under way ends well.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.pass(1);
            for who in 0..AGENTS {
                while self.agents[who].seen < self.api.log.len() {
                    self.watch(who);
                }
                while !(self.agents[who].asked.is_empty() && self.agents[who].answers.is_empty()) {
                    self.act(who);
                    self.answer(who, false);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_two_services_have_one_address_whatever_happens_to_those_who_give_them(
        steps in prop::collection::vec((0..12_u8, 0..AGENTS, 0..SERVICES, 0..12_u64), 1..250),
    ) {
        let mut world = World::new();
        for (what, who, which, seconds) in steps {
            let name = format!("shop/{which}");
            match what {
                0 if !world.api.services.contains_key(&name) => world.api.set(&name, Some(balancer())),
                1 if seconds < 4 => if world.api.services.contains_key(&name) {
                    world.api.set(&name, None);
                },
                2..=4 => world.watch(who),
                5 | 6 => world.act(who),
                7 | 8 => world.answer(who, false),
                9 => world.answer(who, true),
                10 => world.pass(seconds),
                11 if seconds == 0 => world.kill(who),
                _ => world.pass(1),
            }
        }
        world.settle();
        let have = world.api.services.values().filter(|service| !service.ingress.is_empty()).count();
        prop_assert_eq!(have, world.api.services.len().min(4), "{:?}", world.api.services);
    }
}
