//! What becomes of nodes and pools.

use super::super::machine::Links;
use super::World;
use super::api::Logged;
use crate::watch::Kind;

impl World {
    /// SIGKILL: what was asked of the API may still be done, and nobody hears of it. Sometimes with the files lost.
    pub(super) fn crash(&mut self, who: usize) {
        if self.machines[who].core.is_none() {
            return self.start(who);
        }
        self.count("crashes");
        self.lose_agent(who);
        let machine = &mut self.machines[who];
        machine.links.note_routes(&machine.fib);
        let names: Vec<String> =
            self.api.lock().unwrap().pods.get(&machine.name).into_iter().flatten().cloned().collect();
        for container in names {
            // ADDs on their way have lost their agent.
            if !self.machines[who].running.contains_key(&container) {
                self.forget_pod(who, &container);
            }
        }
        if self.random.one_in(8) {
            let _ = std::fs::remove_dir_all(self.machines[who].directory.path().join("attachments"));
        }
        if self.random.one_in(2) {
            self.start(who);
        }
    }

    /// The machine is off: no container, no file, no route is left. The API is not told.
    pub(super) fn power_off(&mut self, who: usize) {
        self.count("machines off");
        self.lose_agent(who);
        let machine = &mut self.machines[who];
        machine.directory = tempfile::tempdir().unwrap();
        machine.links = Links::default();
        machine.fib.clear();
        machine.running.clear();
        self.held.retain(|_, (node, _)| *node != who);
    }

    /// The agent is gone between two moments.
    fn lose_agent(&mut self, who: usize) {
        for effect in std::mem::take(&mut self.machines[who].pending) {
            if self.random.one_in(2) {
                drop(self.ask(who, effect));
            }
        }
        let machine = &mut self.machines[who];
        (machine.core, machine.freeing) = (None, None);
        machine.adding.clear();
    }

    /// Its Node is deleted: with the machine for good, or by mistake, while its pods go on.
    pub(super) fn delete_node(&mut self, who: usize) {
        self.count("nodes deleted");
        if self.random.one_in(2) {
            self.power_off(who);
            self.forget_pods(who);
        }
        let name = self.machines[who].name.clone();
        self.api.lock().unwrap().set_node(&name, false);
    }

    pub(super) fn forget_pods(&mut self, who: usize) {
        let name = &self.machines[who].name;
        let running = &self.machines[who].running;
        let mut api = self.api.lock().unwrap();
        api.pods.entry(name.clone()).or_default().retain(|pod| running.contains_key(pod));
    }

    /// The kubelet registers its Node, and what does not run any more is told to the API. Of a Node that is new the
    /// agent hears before a pod is bound to it.
    pub(super) fn register(&mut self, who: usize) {
        let name = self.machines[who].name.clone();
        if self.machines[who].adding.is_empty() {
            self.forget_pods(who);
        }
        self.start(who);
        if !self.away(who) && !self.api.lock().unwrap().nodes.contains_key(&name) {
            self.count("nodes registered anew");
            self.api.lock().unwrap().set_node(&name, true);
            while self.deliver_kind(who, Kind::Node) {}
        }
    }

    /// The pool is deleted and made again with blocks of another size.
    pub(super) fn replace_pool(&mut self) {
        self.count("pools replaced");
        let mut api = self.api.lock().unwrap();
        api.block_length = 57 - api.block_length;
        let length = api.block_length;
        api.log(Kind::IPPool, Logged::Pool(length));
    }
}
