//! The API server: objects, what has changed of each kind, and requests that are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use futures::executor::block_on;
use kube::ResourceExt;
use manx_ipam::crd::{IPAMBlock, IPAMBlockStatus};
use manx_ipam::store::{Store, StoreError};

use super::super::super::election::{Bid, Record};
use super::super::super::mirror::Write;
use super::super::machine::{block, node, object, pool};
use super::POOL;
use crate::model::{Object, Request};
use crate::watch::{Change, Kind, Update};

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// The API server: objects, and per kind what has changed.
pub struct Api {
    pub random: Random,
    /// One request in so many is lost, or its answer; 0: none.
    pub loses: usize,
    pub blocks: BTreeMap<String, IPAMBlock>,
    pub requests: BTreeMap<String, Request>,
    /// With their UIDs.
    pub nodes: BTreeMap<String, String>,
    /// Pods bound to each node.
    pub pods: BTreeMap<String, BTreeSet<String>>,
    pub block_length: u8,
    pub lease: Option<Record>,
    pub written: u64,
    pub log: BTreeMap<Kind, Vec<Logged>>,
}

#[derive(Clone)]
pub enum Logged {
    Node(String, Option<String>),
    Pool(u8),
    Block(String, Option<Box<IPAMBlock>>),
    Request(String, Option<Request>),
}

impl Api {
    pub fn version(&mut self) -> String {
        self.written += 1;
        self.written.to_string()
    }

    pub fn log(&mut self, kind: Kind, logged: Logged) {
        self.log.entry(kind).or_default().push(logged);
    }

    pub fn set_block(&mut self, name: &str, block: Option<IPAMBlock>) {
        let logged = block.clone().map(Box::new);
        match block {
            Some(block) => _ = self.blocks.insert(name.to_owned(), block),
            None => _ = self.blocks.remove(name),
        }
        self.log(Kind::IPAMBlock, Logged::Block(name.to_owned(), logged));
    }

    pub fn set_request(&mut self, name: &str, request: Option<Request>) {
        match request.clone() {
            Some(request) => _ = self.requests.insert(name.to_owned(), request),
            None => _ = self.requests.remove(name),
        }
        self.log(Kind::IPAMRequest, Logged::Request(name.to_owned(), request));
    }

    pub fn set_node(&mut self, name: &str, there: bool) {
        let uid = there.then(|| self.version());
        match uid.clone() {
            Some(uid) => _ = self.nodes.insert(name.to_owned(), uid),
            None => _ = self.nodes.remove(name),
        }
        self.log(Kind::Node, Logged::Node(name.to_owned(), uid));
    }

    /// All there is of a kind.
    pub fn list(&self, kind: Kind) -> Update {
        match kind {
            Kind::Node => Update::Node(Change::Replace(
                self.nodes.iter().map(|(name, uid)| known_node(name, uid)).collect(),
            )),
            Kind::IPPool => {
                Update::Pool(Box::new(Change::Replace(vec![pool("v4", POOL, self.block_length)])))
            }
            Kind::IPAMBlock => Update::Block(Change::Replace(self.blocks.values().map(block).collect())),
            _ => {
                let all = self.requests.iter().map(|(name, request)| object(name, Ok(request.clone())));
                Update::Request(Change::Replace(all.collect()))
            }
        }
    }
}

pub fn known_node(name: &str, uid: &str) -> Object<crate::model::Node> {
    let mut node = Object { name: name.to_owned(), ..node("node1") };
    node.spec.as_mut().unwrap().uid = uid.to_owned();
    node
}

pub fn change(logged: Logged) -> Vec<Update> {
    match logged {
        Logged::Node(name, Some(uid)) => vec![Update::Node(Change::Apply(known_node(&name, &uid)))],
        Logged::Node(name, None) => vec![Update::Node(Change::Delete(name))],
        Logged::Pool(length) => vec![
            Update::Pool(Box::new(Change::Delete("v4".to_owned()))),
            Update::Pool(Box::new(Change::Apply(pool("v4", POOL, length)))),
        ],
        Logged::Block(_, Some(seen)) => vec![Update::Block(Change::Apply(block(&seen)))],
        Logged::Block(name, None) => vec![Update::Block(Change::Delete(name))],
        Logged::Request(name, Some(request)) => {
            vec![Update::Request(Change::Apply(object(&name, Ok(request))))]
        }
        Logged::Request(name, None) => vec![Update::Request(Change::Delete(name))],
    }
}

/// The API as one node reaches it.
pub struct Reach<'a> {
    pub api: &'a Mutex<Api>,
    pub away: bool,
}

impl Reach<'_> {
    pub fn ask<T>(&self, request: impl FnOnce(&mut Api) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let lost = || Err(StoreError::Unavailable("lost".to_owned()));
        let mut api = self.api.lock().unwrap();
        let fate = if api.loses == 0 {
            2
        } else {
            let loses = api.loses;
            api.random.below(loses)
        };
        if self.away || fate == 0 {
            return lost();
        }
        let answer = request(&mut api);
        if fate == 1 { lost() } else { answer }
    }
}

impl Store for Reach<'_> {
    async fn list_blocks(&self) -> Result<Vec<IPAMBlock>, StoreError> {
        self.ask(|api| Ok(api.blocks.values().cloned().collect()))
    }

    async fn create_block(&self, block: &IPAMBlock) -> Result<(), StoreError> {
        self.ask(|api| {
            let name = block.name_any();
            if api.blocks.contains_key(&name) {
                return Err(StoreError::Exists(name));
            }
            let (mut block, version) = (block.clone(), api.version());
            block.metadata.uid = Some(format!("uid-{version}"));
            block.metadata.resource_version = Some(version);
            api.set_block(&name, Some(block));
            Ok(())
        })
    }

    async fn update_status(&self, name: &str, status: &IPAMBlockStatus) -> Result<(), StoreError> {
        self.ask(|api| {
            let version = api.version();
            let Some(mut block) = api.blocks.get(name).cloned() else {
                return Err(StoreError::NotFound(name.to_owned()));
            };
            block.status = Some(status.clone());
            block.metadata.resource_version = Some(version);
            api.set_block(name, Some(block));
            Ok(())
        })
    }

    async fn delete_block(&self, name: &str, uid: &str, version: Option<&str>) -> Result<(), StoreError> {
        self.ask(|api| {
            let Some(block) = api.blocks.get(name) else { return Ok(()) };
            let same = block.uid().as_deref() == Some(uid)
                && version.is_none_or(|version| block.resource_version().as_deref() == Some(version));
            if !same {
                return Err(StoreError::Refused("it is another by now".to_owned()));
            }
            api.set_block(name, None);
            Ok(())
        })
    }
}

pub fn take_lease(api: &mut Api, me: &str, bid: &Bid) -> Result<Option<Record>, ()> {
    if let Bid::Take { version, transitions } = bid {
        if api.lease.as_ref().map(|lease| &lease.version) != version.as_ref() {
            return Err(());
        }
        let version = api.version();
        api.lease = Some(Record { holder: me.to_owned(), transitions: *transitions, version });
    }
    Ok(api.lease.clone())
}

pub fn write_one(reach: &Reach<'_>, write: &Write) -> Result<(), StoreError> {
    match write {
        Write::Block { name, status } => match block_on(reach.update_status(name, status)) {
            Err(StoreError::NotFound(_)) => Ok(()),
            outcome => outcome,
        },
        Write::Ask { name, node, block } => reach.ask(|api| {
            if !api.requests.contains_key(name) {
                let uid = api.version();
                let request = Request { node: node.clone(), block: *block, uid, refused: None };
                api.set_request(name, Some(request));
            }
            Ok(())
        }),
        Write::Asked { name } => reach.ask(|api| {
            api.set_request(name, None);
            Ok(())
        }),
        Write::Refuse { name, reason } => reach.ask(|api| {
            if let Some(request) = api.requests.get(name).cloned() {
                api.set_request(name, Some(Request { refused: Some(reason.clone()), ..request }));
            }
            Ok(())
        }),
        _ => reach.ask(|_| Ok(())),
    }
}
