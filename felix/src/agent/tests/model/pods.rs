//! Pods come and go, and plugins die half-way.

use std::net::IpAddr;

use manx_cni::protocol::{PodRef, host_ifname};
use tokio::sync::oneshot;

use super::super::machine::{key, object, pod};
use super::{Adding, World};
use crate::attach::{Asked, Attempt, Command};
use crate::watch::{Change, Update};

impl World {
    /// Interfaces that are gone hold nothing; ADDs that were answered go on.
    pub(super) fn settle(&mut self, who: usize) {
        let links = self.machines[who].links.names();
        self.held
            .retain(|_, (node, container)| *node != who || links.contains(&host_ifname(&key(container))));
        let adding = std::mem::take(&mut self.machines[who].adding);
        for mut add in adding {
            match add.answer.try_recv() {
                Ok(Ok(attach)) => self.make(who, &add, &attach.addresses),
                Ok(Err(_)) => self.forget_pod(who, &add.container),
                Err(oneshot::error::TryRecvError::Empty) => self.machines[who].adding.push(add),
                Err(oneshot::error::TryRecvError::Closed) => self.forget_pod(who, &add.container),
            }
        }
    }

    pub(super) fn forget_pod(&mut self, who: usize, container: &str) {
        let mut api = self.api.lock().unwrap();
        api.pods.entry(self.machines[who].name.clone()).or_default().remove(container);
    }

    /// The plugin has addresses: it makes the veth and says so, or dies on the way.
    pub(super) fn make(&mut self, who: usize, add: &Adding, addresses: &[IpAddr]) {
        self.count("addresses given");
        for address in addresses {
            let other = self.held.get(address).filter(|(_, container)| *container != add.container);
            assert!(
                other.is_none(),
                "{address} is given to {} and held by {other:?} ({self:?})",
                add.container
            );
        }
        let dies = if self.plugins_die { self.random.below(10) } else { 9 };
        if dies > 0 {
            self.attempts += 1;
            let index = u32::try_from(self.attempts).unwrap() + 1000;
            self.machines[who].links.add(&host_ifname(&key(&add.container)), index);
            for address in addresses {
                self.held.insert(*address, (who, add.container.clone()));
            }
            if dies > 1 {
                let shown = object(&format!("default/{}", add.container), Ok(pod(&[])));
                self.update(who, Update::Pod(Change::Apply(shown)));
                let (reply, mut answer) = oneshot::channel();
                let (key, pod_mac) = (key(&add.container), [2, 0, 0, 0, 0, 1]);
                let ready = Command::Ready { attempt: add.attempt, key, pod_mac, host_ifindex: index, reply };
                self.command(who, ready);
                if matches!(answer.try_recv(), Ok(Ok(()))) && dies > 2 {
                    self.machines[who].running.insert(add.container.clone(), addresses.to_vec());
                    return;
                }
            }
        }
        self.command(who, Command::Abort { attempt: add.attempt, key: key(&add.container) });
        self.forget_pod(who, &add.container);
    }

    pub(super) fn add(&mut self, who: usize) {
        // No pod is bound to a node that is not there.
        let there = self.api.lock().unwrap().nodes.contains_key(&self.machines[who].name);
        if self.machines[who].core.is_none() || self.machines[who].running.len() > 11 || !there {
            return;
        }
        self.attempts += 1;
        let (attempt, container) = (Attempt(self.attempts), format!("pod{}", self.attempts));
        let name = self.machines[who].name.clone();
        self.api.lock().unwrap().pods.entry(name).or_default().insert(container.clone());
        let (reply, answer) = oneshot::channel();
        let asked = Asked {
            key: key(&container),
            pod: PodRef { namespace: "default".into(), name: container.clone(), uid: String::new() },
            netns: String::new(),
            network: "manx".to_owned(),
            ips: Vec::new(),
        };
        self.machines[who].adding.push(Adding { attempt, container, answer });
        self.command(who, Command::Allocate { attempt, asked, reply });
    }

    pub(super) fn del(&mut self, who: usize) {
        let running: Vec<String> = self.machines[who].running.keys().cloned().collect();
        if running.is_empty() || self.machines[who].core.is_none() {
            return;
        }
        let container = running[self.random.below(running.len())].clone();
        self.end(who, &container);
    }

    pub(super) fn end(&mut self, who: usize, container: &str) {
        self.count("pods ended");
        self.machines[who].running.remove(container);
        let (reply, _answer) = oneshot::channel();
        self.command(who, Command::Release { key: key(container), reply });
        self.update(who, Update::Pod(Change::Delete(format!("default/{container}"))));
        self.forget_pod(who, container);
    }
}
