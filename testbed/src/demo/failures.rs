//! What is taken away while packets flow.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::Report;
use super::reach::{Family, all, client_to_pod, pod_to_client};
use super::world::{PATIENCE, World, words};
use crate::eventually;
use crate::pod::PodInfo;

/// How long the traffic of a router that says good-bye may take to move to the other.
const FAILOVER: Duration = Duration::from_secs(10);

/// Kills an agent, starts it again, and counts what a ping through its node lost meanwhile.
pub async fn agent_killed(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let (from, to) = (world.pod_on("node1")?, world.pod_on("node2")?);
    let before = flaps(world).await?;
    let mut pings = vec![];
    for family in [Family::V4, Family::V6] {
        let to = family.pick(&to.addresses).map_err(anyhow::Error::msg)?;
        pings.push((family, Ping::start(world, from, to).await?));
    }
    world.lab.kill("node2", "manx-felix", Signal::SIGKILL)?;
    let gone = || async {
        match world.lab.pid("node2", "manx-felix") {
            Ok(None) => Ok(()),
            _ => Err("manx-felix still runs"),
        }
    };
    eventually(PATIENCE, gone).await?;
    for (_, ping) in &mut pings {
        ping.replies(50).await?;
    }
    world.lab.start_daemon("node2", "manx-felix").await?;
    let ready = || async {
        match world.report("node2").await {
            Ok(report) if report.ready => Ok(()),
            Ok(_) => Err("not ready".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    eventually(PATIENCE, ready).await?;
    for (family, mut ping) in pings {
        ping.replies(50).await?;
        let counts = ping.stop().await?;
        let lost = if counts.lost() == 0 { Ok(()) } else { Err(counts.words()) };
        report.check(
            &format!("not one packet lost, killed and started again, {}", family.name()),
            counts.words(),
            vec![lost],
        );
    }
    let after = flaps(world).await?;
    let calm =
        if before == after { Ok(()) } else { Err(format!("sessions went down: {before:?}, then {after:?}")) };
    report.check("no BGP session noticed", "", vec![calm]);
    Ok(())
}

/// Stops a router as a power switch with manners would; everything goes on by the other.
pub async fn router_stopped(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let pod = world.pod_on("node3")?;
    let to = Family::V4.pick(&world.client).map_err(anyhow::Error::msg)?;
    let mut ping = Ping::start(world, pod, to).await?;
    world.lab.stop_node("tor1").await?;
    for family in [Family::V4, Family::V6] {
        let both_ways = world.pods.iter().map(|pod| async move {
            let goes_on = || async {
                client_to_pod(world, pod, family).await?;
                pod_to_client(world, pod, family).await
            };
            eventually(FAILOVER, goes_on).await.map_err(|late| late.to_string())
        });
        report.check(
            &format!("client and pods reach each other by tor2, {}", family.name()),
            "TCP both ways",
            all(both_ways.collect()).await,
        );
    }
    // Since the router was stopped: what was answered before it says nothing.
    let went_on = ping.replies(50).await.map_err(|error| format!("{error:#}"));
    let counts = ping.stop().await?;
    report.check("a ping from a pod to the client goes on", counts.words(), vec![went_on]);
    Ok(())
}

/// Deletes a pod: nothing of it stays.
pub async fn pod_deleted(world: &mut World, report: &mut Report) -> anyhow::Result<()> {
    let pod = world.pods.pop().context("no pod left")?;
    let held = world.report(&pod.node).await?.pods.into_iter().find(|held| held.name == pod.name);
    let held = held.with_context(|| format!("{} does not know {}", pod.node, pod.name))?;
    world.lab.pod_del(&pod.namespace, &pod.name).await?;
    let gone = || async {
        let report = world.report(&pod.node).await.map_err(|error| error.to_string())?;
        match report.pods.iter().any(|left| left.container_id == pod.container_id) {
            true => Err(format!("{} still holds {}", pod.node, words(&pod.addresses))),
            false => Ok(()),
        }
    };
    let address = eventually(PATIENCE, gone).await.map_err(|late| late.to_string());
    report.check("its addresses are free", words(&pod.addresses), vec![address]);

    let link = world.lab.exec(&pod.node, &["ip", "link", "show", &held.host_ifname]).await?;
    let link =
        if link.status.success() { Err(format!("{} is still there", held.host_ifname)) } else { Ok(()) };
    report.check("its veth is gone", held.host_ifname, vec![link]);

    let mut outcomes = vec![];
    for address in &pod.addresses {
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        let shown =
            world.lab.run(&pod.node, &["ip", family, "route", "show", "exact", &address.to_string()]).await?;
        outcomes.push(if shown.trim().is_empty() { Ok(()) } else { Err(shown.trim().to_owned()) });
    }
    report.check("its routes are gone", "", outcomes);
    Ok(())
}

/// How often each session has gone down, by node and neighbour.
async fn flaps(world: &World) -> anyhow::Result<Vec<(String, IpAddr, u64)>> {
    let mut flaps = vec![];
    for node in world.nodes.keys() {
        let sessions = world.report(node).await?.speaker.sessions;
        flaps.extend(
            sessions.into_iter().map(|session| ((*node).to_owned(), session.address.addr, session.flaps)),
        );
    }
    Ok(flaps)
}

/// A ping of a hundred packets a second that runs until it is stopped.
struct Ping {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    counts: Counts,
}

/// Packets up to the last answered one: what was still on its way at the end is nobody's loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    sent: u64,
    received: u64,
}

impl Ping {
    /// Starts it and waits for the first answer.
    async fn start(world: &World, from: &PodInfo, to: IpAddr) -> anyhow::Result<Self> {
        let mut child = world.lab.pod_spawn(from, &["ping", "-n", "-i", "0.01", &to.to_string()])?;
        let out = child.stdout.take().context("ping's output is not piped")?;
        let mut ping = Self { child, lines: BufReader::new(out).lines(), counts: Counts::default() };
        ping.replies(1).await?;
        Ok(ping)
    }

    /// Waits for so many more answers.
    async fn replies(&mut self, count: u64) -> anyhow::Result<()> {
        let enough = self.counts.received + count;
        let more = async {
            while self.counts.received < enough {
                let line = self.lines.next_line().await?.context("ping ended by itself")?;
                self.counts.take(&line);
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, more).await.context("ping gets no answers")?
    }

    /// Ends it as Ctrl-C does, and counts.
    async fn stop(mut self) -> anyhow::Result<Counts> {
        let pid = self.child.id().context("ping ended by itself")?;
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT)?;
        while let Some(line) = self.lines.next_line().await? {
            self.counts.take(&line);
        }
        self.child.wait().await?;
        Ok(self.counts)
    }
}

impl Counts {
    /// Reads `64 bytes from 10.244.1.3: icmp_seq=17 ttl=62 time=0.081 ms`; duplicates do not count.
    fn take(&mut self, line: &str) {
        let sequence =
            line.split_once("icmp_seq=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        if let Some(sequence) = sequence
            && line.contains("bytes from")
            && !line.contains("DUP!")
        {
            self.sent = self.sent.max(sequence);
            self.received += 1;
        }
    }

    fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    fn words(&self) -> String {
        format!("{} of {} packets lost", self.lost(), self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_before_the_last_answer_is_lost() {
        let mut counts = Counts::default();
        for line in [
            "PING 10.244.1.3 (10.244.1.3) 56(84) bytes of data.",
            "64 bytes from 10.244.1.3: icmp_seq=1 ttl=62 time=0.081 ms",
            "64 bytes from 10.244.1.3: icmp_seq=4 ttl=62 time=0.081 ms",
            "64 bytes from 10.244.1.3: icmp_seq=4 ttl=62 time=0.081 ms (DUP!)",
            "From 10.244.1.1 icmp_seq=5 Destination Host Unreachable",
        ] {
            counts.take(line);
        }
        assert_eq!((counts.sent, counts.received, counts.lost()), (4, 2, 2));
        assert_eq!(counts.words(), "2 of 4 packets lost");
    }
}
