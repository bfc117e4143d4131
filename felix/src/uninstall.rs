//! Takes from a node what Manx has put there: what [`crate::install`], the agent and the plugin leave when they end,
//! so that nothing is lost by their ending.
//!
//! What is ours is told apart without memory, as everywhere: files by their names, interfaces by the prefix of theirs,
//! routes by their protocol number, rules by their table. What is gone already is no error, so that it can be done again. Kernel settings
//! ([`crate::dataplane::sysctl`]) stay: who else relies on them by now cannot be told.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use manx_cni::netlink::{Errno, Netlink, NetlinkError, Refusal};
use manx_cni::protocol::HOST_IFNAME_PREFIX;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::acl::compile::TABLE;
use crate::acl::nft::{Batch, Nft};
use crate::acl::services;
use crate::alone::{NotAlone, alone};
use crate::attach::files::Files;
use crate::dataplane::message::{self, Message};
use crate::dataplane::objects::Object;
use crate::dataplane::snapshot;
use crate::dataplane::state::Snapshot;
use crate::install::{CONFLIST, PLUGIN};
use crate::nat;

/// What the agent and the plugin keep in the state directory, and where the speaker's socket may lie in it.
const STATE: [&str; 6] = ["attachments", "released", "known.json", "agent.sock", "bgpd.sock", "bgpd"];

/// Where to look.
#[derive(Clone, Debug)]
pub struct Uninstall {
    /// The agent's state directory.
    pub state_dir: PathBuf,
    /// The runtime's folder of CNI plugins, if the agent has installed there.
    pub cni_bin_dir: Option<PathBuf>,
    /// The runtime's folder of network configurations.
    pub cni_conf_dir: Option<PathBuf>,
    /// The speaker's socket.
    pub speaker_socket: PathBuf,
}

/// Why a node is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// An agent runs, which would put all of it back.
    #[error("{0}: end it first, by deleting its DaemonSet")]
    Agent(#[from] NotAlone),
    /// The speaker runs, and announces what this would remove.
    #[error("manx-bgpd runs and answers on {}: end it first, by deleting its DaemonSet", .0.display())]
    Speaker(PathBuf),
    /// Pods have their network from here.
    #[error("pods of this node would lose their network: {}; move them away (kubectl drain), or say --force", .0.join(", "))]
    Pods(Vec<String>),
    /// The attachments could not be read.
    #[error("{path}: {source}", path = .path.display())]
    State {
        /// Where.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// What was done.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was removed, in words.
    pub removed: Vec<String>,
    /// What could not be, and why.
    pub failed: Vec<String>,
}

impl Outcome {
    fn note<E: fmt::Display>(&mut self, what: impl fmt::Display, result: Result<bool, E>) {
        match result {
            Ok(true) => self.removed.push(what.to_string()),
            Ok(false) => {}
            Err(error) => self.failed.push(format!("{what}: {error}")),
        }
    }
}

impl Uninstall {
    /// Whether it may be done: nothing of ours runs here, and with `pods` no pod lives by it.
    ///
    /// Until the process ends no agent can start in this network namespace.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn allowed(&self, pods: Pods) -> Result<(), Refused> {
        alone().await?;
        if UnixStream::connect(&self.speaker_socket).is_ok() {
            return Err(Refused::Speaker(self.speaker_socket.clone()));
        }
        let attachments = self.state_dir.join("attachments");
        if pods == Pods::LoseTheirNetwork || !attachments.exists() {
            return Ok(());
        }
        let loaded = Files::open(&self.state_dir).and_then(|files| files.load());
        let loaded = loaded.map_err(|source| Refused::State { path: attachments, source })?;
        let pods = loaded.attachments.iter().map(|held| format!("{}/{}", held.pod.namespace, held.pod.name));
        let pods: Vec<String> = pods.collect();
        if pods.is_empty() { Ok(()) } else { Err(Refused::Pods(pods)) }
    }

    /// Does it: first what makes runtimes start pods, last what remembers them. What fails keeps nothing else from
    /// being done.
    pub fn run(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let installed = [(&self.cni_conf_dir, CONFLIST), (&self.cni_bin_dir, PLUGIN)];
        for (directory, name) in installed {
            if let Some(path) = directory.as_ref().map(|directory| directory.join(name)) {
                outcome.note(path.display(), remove(&path));
            }
        }
        match Netlink::open() {
            Ok(mut netlink) => {
                interfaces(&mut netlink, &mut outcome);
                routes(&mut netlink, &mut outcome);
            }
            Err(error) => outcome.failed.push(format!("netlink socket: {error}")),
        }
        for name in [TABLE, services::TABLE, nat::TABLE] {
            outcome.note(format!("nftables table inet {name}"), table(name));
        }
        for name in STATE {
            let path = self.state_dir.join(name);
            outcome.note(path.display(), remove(&path));
        }
        // Another's files in it, or a mount: it stays.
        let _ = fs::remove_dir(&self.state_dir);
        outcome
    }
}

/// What becomes of pods that have their network by what is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// While there is one nothing is removed.
    AreKept,
    /// They go on without.
    LoseTheirNetwork,
}

/// Whether there was something.
fn remove(path: &Path) -> io::Result<bool> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // A directory that is mounted here, as the speaker's is in its container, is emptied but stays.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(true),
        Err(error) => Err(error),
    }
}

/// What becomes of packets by our rules. A kernel without nftables has none.
fn table(name: &str) -> Result<bool, String> {
    let Ok(mut nft) = Nft::open() else { return Ok(false) };
    if nft.read_table(name).map_err(|error| error.to_string())?.is_none() {
        return Ok(false);
    }
    let mut batch = Batch::new(name);
    batch.delete_table();
    nft.commit(&batch).map(|()| true).map_err(|error| error.to_string())
}

/// The hosts' ends of pods' veths; their routes go with them.
fn interfaces(netlink: &mut Netlink, outcome: &mut Outcome) {
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let links = netlink.dump(&all, |link: LinkMessage| {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        name.filter(|name| name.starts_with(HOST_IFNAME_PREFIX)).map(|name| (link.header.index, name))
    });
    let links = match links {
        Ok(links) => links,
        Err(error) => return outcome.failed.push(format!("reading interfaces: {error}")),
    };
    for (index, name) in links {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let deleted = netlink.request::<LinkMessage>((RouteNetlinkMessage::DelLink(link), 0));
        outcome.note(format!("interface {name}"), gone(deleted.map(drop), &[Errno::ENODEV]));
    }
}

/// Routes and next-hop objects of our protocol number, in every table and whatever their form.
fn routes(netlink: &mut Netlink, outcome: &mut Outcome) {
    let Snapshot { routes, objects, .. } = match snapshot::read(netlink, None) {
        Ok(found) => found,
        Err(error) => return outcome.failed.push(format!("reading routes: {error}")),
    };
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let requests = routes.iter().filter(|seen| seen.destination.is_ipv4() == is_v4);
        let requests = requests.map(|seen| message::remove_route(seen.destination, seen.settings));
        remove_all(netlink, &format!("{family} routes"), requests.collect(), Errno::ESRCH, outcome);
    }
    // Groups before what they are made of.
    let legs = |object: &Object| matches!(object, Object::Leg { .. });
    let (legs, groups): (Vec<_>, Vec<_>) = objects.into_iter().partition(|(_, object)| legs(object));
    let requests = groups.into_iter().chain(legs).map(|(id, _)| message::remove_object(id));
    remove_all(netlink, "next-hop objects", requests.collect(), Errno::ENOENT, outcome);
}

fn remove_all(
    netlink: &mut Netlink,
    what: &str,
    requests: Vec<(Message, u16)>,
    gone: Errno,
    outcome: &mut Outcome,
) {
    let all = requests.len();
    match netlink.batch(requests) {
        Ok(refused) => {
            outcome.note::<io::Error>(format!("{} {what}", all - refused.len()), Ok(all > refused.len()));
            let refused = refused.into_iter().filter(|(_, refusal)| refusal.errno != gone);
            outcome.failed.extend(refused.map(|(_, refusal)| format!("{what}: {refusal}")));
        }
        Err(error) => outcome.failed.push(format!("removing {what}: {error}")),
    }
}

/// What another has removed meanwhile is removed.
fn gone(result: Result<(), NetlinkError>, meanwhile: &[Errno]) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => Ok(true),
        Err(NetlinkError::Refused(Refusal { errno, .. })) if meanwhile.contains(&errno) => Ok(false),
        Err(error) => Err(error),
    }
}
