//! Several agents that give addresses through an API that loses requests and answers, while their watches are behind, one
//! sleeps or dies and another leads in its place: no two Services ever have one address, and in the end all have one that
//! can.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use manx_ipam::crd::{AllowedUse, IPPool, IPPoolSpec};
use proptest::prelude::*;

use super::super::balancing::{Grant, Granted};
use super::super::core::{Core, Effect};
use super::super::election::{Bid, Duty, Record};
use super::machine::{Links, core_of, namespace, node, object};
use super::services::balancer;
use crate::model::Object;
use crate::model::service::Service;
use crate::watch::{Change, Update};

const AGENTS: usize = 3;

/// One more than the pool has addresses.
const SERVICES: usize = 5;

/// Within it the API has done a request, or the client does not wait for it any more.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where nothing happens between, agents have a turn so often.
const TURN: Duration = Duration::from_secs(4);

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
    /// What it asks of the API, each since when.
    asked: Vec<(Request, Instant)>,
    /// What the API has answered and it does not know yet.
    answers: VecDeque<Answer>,
}

enum Request {
    Bid(Duty, Bid),
    List,
    /// One write after the other, and what came of those before.
    Give(VecDeque<Grant>, Instant, Vec<(Arc<str>, Granted)>),
    Other,
}

enum Answer {
    Bid(Duty, Bid, Result<Option<Record>, ()>),
    Listed(Option<Vec<Object<Service>>>),
    Given(Vec<(Arc<str>, Granted)>),
    Nothing,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Done,
    /// It did not reach the API.
    Lost,
    /// The answer did not come back.
    Unanswered,
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A Service is made, if it is not there.
    Create(usize),
    Delete(usize),
    /// Somebody changes something else of a Service.
    Touch(usize),
    /// The watch of an agent tells it some more.
    Watch(usize, usize),
    /// The API acts on a request of an agent.
    Act(usize, usize, Fate),
    /// An agent hears an answer.
    Hear(usize),
    /// Seconds go by.
    Pass(u64),
    /// An agent sleeps for so many turns of the others; with them all goes well meanwhile, but for their watches.
    Sleep(usize, u8),
    /// An agent dies and another begins in its place.
    Kill(usize),
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
            Agent { name, directory, core, seen: 0, asked: Vec::new(), answers: VecDeque::new() }
        });
        Self { agents: agents.collect(), api, now }
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            (0..AGENTS).for_each(|who| self.tick(who));
        }
    }

    fn tick(&mut self, who: usize) {
        self.agents[who].core.tick(self.now);
        self.collect(who);
    }

    fn sleep(&mut self, sleeper: usize, turns: u8) {
        for _ in 0..turns {
            self.now += TURN;
            for who in (0..AGENTS).filter(|who| *who != sleeper) {
                self.tick(who);
                self.serve(who);
            }
        }
    }

    /// All that an agent has asked is done.
    fn serve(&mut self, who: usize) {
        while !(self.agents[who].asked.is_empty() && self.agents[who].answers.is_empty()) {
            self.act(who, 0, Fate::Done);
            self.hear(who);
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
                let request = match effect {
                    Effect::Bid(duty, bid) => Request::Bid(duty, bid),
                    Effect::ListServices => Request::List,
                    Effect::Give { grants, until } => Request::Give(grants.into(), until, Vec::new()),
                    Effect::Write(_) => Request::Other,
                    Effect::Program { .. } if agent.core.in_sync() => {
                        agent.core.programmed();
                        continue;
                    }
                    _ => continue,
                };
                agent.asked.push((request, self.now));
            }
        }
    }

    /// The API acts on one of the requests of an agent, unless that was given up.
    fn act(&mut self, who: usize, place: usize, fate: Fate) {
        let agent = &mut self.agents[who];
        if agent.asked.is_empty() {
            return;
        }
        let (request, at) = agent.asked.remove(place % agent.asked.len());
        let late = self.now.saturating_duration_since(at) > DEADLINE;
        let is_done = fate != Fate::Lost && !late;
        let is_answered = fate == Fate::Done && !late;
        let answer = match request {
            Request::Bid(duty, bid) => {
                let lease = if is_done { self.api.bid(&agent.name, &bid) } else { Err(()) };
                Answer::Bid(duty, bid, lease.and_then(|lease| if is_answered { Ok(lease) } else { Err(()) }))
            }
            Request::List => {
                let services = self.api.services.iter();
                let all = services.map(|(name, service)| object(name, Ok(service.clone()))).collect();
                Answer::Listed(is_answered.then_some(all))
            }
            Request::Give(mut grants, until, mut outcomes) => {
                if let Some(grant) = grants.pop_front() {
                    // None is begun when its time is over.
                    let outcome = if at >= until {
                        Granted::Not
                    } else {
                        let outcome = if is_done { self.api.give(&grant) } else { Granted::Unknown };
                        if is_answered { outcome } else { Granted::Unknown }
                    };
                    outcomes.push((grant.service, outcome));
                }
                if !grants.is_empty() {
                    let begins = self.now.min(at + DEADLINE);
                    agent.asked.push((Request::Give(grants, until, outcomes), begins));
                    return;
                }
                Answer::Given(outcomes)
            }
            Request::Other => Answer::Nothing,
        };
        agent.answers.push_back(answer);
    }

    /// An agent hears the oldest answer.
    fn hear(&mut self, who: usize) {
        let agent = &mut self.agents[who];
        match agent.answers.pop_front() {
            Some(Answer::Bid(duty, bid, lease)) => agent.core.bid_answered((duty, &bid), lease, self.now),
            Some(Answer::Listed(services)) => agent.core.listed_services(services, self.now),
            Some(Answer::Given(outcomes)) => agent.core.given(outcomes, self.now),
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

    fn take(&mut self, step: Step) {
        let name = |which: usize| format!("shop/{which}");
        let service = |world: &Self, which| world.api.services.get(&name(which)).cloned();
        match step {
            Step::Create(which) if service(self, which).is_none() => {
                let uid = self.api.writes.to_string().into();
                self.api.set(&name(which), Some(Service { uid, ..balancer() }));
            }
            Step::Delete(which) if service(self, which).is_some() => self.api.set(&name(which), None),
            Step::Touch(which) => {
                if let Some(service) = service(self, which) {
                    self.api.set(&name(which), Some(service));
                }
            }
            Step::Watch(who, events) => (0..events).for_each(|_| self.watch(who)),
            Step::Act(who, place, fate) => self.act(who, place, fate),
            Step::Hear(who) => self.hear(who),
            Step::Pass(seconds) => self.pass(seconds),
            Step::Sleep(who, turns) => self.sleep(who, turns),
            Step::Kill(who) => self.kill(who),
            Step::Create(_) | Step::Delete(_) => {}
        }
    }

    /// All that is under way ends well.
    fn settle(&mut self) {
        for _ in 0..50 {
            self.now += TURN;
            for who in 0..AGENTS {
                self.tick(who);
                while self.agents[who].seen < self.api.log.len() {
                    self.watch(who);
                }
                self.serve(who);
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (who, which) = (|| 0..AGENTS, || 0..SERVICES);
    let fate = prop_oneof![6 => Just(Fate::Done), 1 => Just(Fate::Lost), 1 => Just(Fate::Unanswered)];
    prop_oneof![
        8 => which().prop_map(Step::Create),
        3 => which().prop_map(Step::Delete),
        2 => which().prop_map(Step::Touch),
        8 => (who(), 1..4_usize).prop_map(|(who, events)| Step::Watch(who, events)),
        30 => (who(), 0..3_usize, fate).prop_map(|(who, place, fate)| Step::Act(who, place, fate)),
        30 => who().prop_map(Step::Hear),
        15 => (1..4_u64).prop_map(Step::Pass),
        1 => (4..40_u64).prop_map(Step::Pass),
        4 => (who(), 3..20_u8).prop_map(|(who, turns)| Step::Sleep(who, turns)),
        1 => who().prop_map(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_two_services_have_one_address_whatever_happens_to_those_who_give_them(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.settle();
        let have = world.api.services.values().filter(|service| !service.ingress.is_empty()).count();
        prop_assert_eq!(have, world.api.services.len().min(4), "{:?}", world.api.services);
    }
}
