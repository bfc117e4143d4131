//! Traffic that something is done under: what was lost of it.

use std::net::IpAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::process::Child;

use crate::enter::Life;
use crate::eventually::eventually;
use crate::lab::{Lab, LabError, succeeded};
use crate::pod::PodInfo;

/// How long a stream may take to begin.
const BEGIN: Duration = Duration::from_secs(30);
/// How long its receiver has to say that a segment sent again had come already.
const SAY: Duration = Duration::from_secs(5);

/// Packets of a flood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flood {
    /// Echo requests.
    pub sent: u64,
    /// Answers to them.
    pub received: u64,
}

/// Pings an address 500 times a second until told to stop. `from` is a node, or as `node/namespace/pod` a pod.
///
/// # Errors
/// When `ping` cannot be started, or is answered by nobody at all.
pub async fn flood(lab: &Lab, from: &str, to: IpAddr, stop: &AtomicBool) -> Result<Flood, LabError> {
    let mut all = Flood::default();
    while !stop.load(Ordering::Relaxed) {
        let to = to.to_string();
        let argv = ["ping", "-q", "-i", "0.002", "-c", "500", "-W", "2", &to];
        let output = lab.command(from, Life::Attached, &argv)?.stdin(Stdio::null()).output().await;
        let said = succeeded(from, &argv, output.map_err(|source| LabError::start(&argv, source))?)?;
        let line = said.lines().find(|line| line.contains("packets transmitted")).unwrap_or_default();
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let (Some(sent), Some(received)) = (numbers.next(), numbers.next()) else {
            return Err(LabError::Answer { of: format!("ping of {to}"), why: said });
        };
        all.sent += sent;
        all.received += received;
    }
    Ok(all)
}

/// A TCP stream of 2 MB a second from one pod to another, for as long as this is there.
#[derive(Debug)]
pub struct Stream<'a> {
    lab: &'a Lab,
    from: &'a PodInfo,
    sender: Child,
    _listener: Child,
    begun: Segments,
}

/// A pod's counts of TCP segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segments {
    sent: u64,
    /// Sent again, less those whose receiver says that it had them already (RFC 2883): a busy machine's timers send again
    /// what is only late.
    lost: u64,
}

impl<'a> Stream<'a> {
    /// Begins one; comes back when it flows.
    ///
    /// # Errors
    /// When it does not.
    pub async fn begin(lab: &'a Lab, from: &'a PodInfo, to: &PodInfo) -> Result<Self, LabError> {
        let listener = lab.pod_spawn(to, &["sh", "-c", "sleep 3600 | busybox nc -l -p 9000 >/dev/null"])?;
        let listens = || async { lab.pod_run(to, &["sh", "-c", "grep -q :2328 /proc/net/tcp*"]).await };
        let late = |late| LabError::Late { what: "the stream".to_owned(), late };
        eventually(BEGIN, listens).await.map_err(late)?;
        let address = to.addresses.iter().find(|address| address.is_ipv4()).or(to.addresses.first());
        let address = address.map(IpAddr::to_string).unwrap_or_default();
        let script =
            format!("while :; do head -c 20000 /dev/zero; sleep 0.01; done | busybox nc {address} 9000");
        let sender = lab.pod_spawn(from, &["sh", "-c", &script])?;
        let flows = || async {
            let segments = segments(lab, from).await.map_err(|error| error.to_string())?;
            if segments.sent > 100 { Ok(segments) } else { Err("it does not flow".to_owned()) }
        };
        let begun = eventually(BEGIN, flows).await.map_err(late)?;
        Ok(Self { lab, from, sender, _listener: listener, begun })
    }

    /// That none of its segments has been lost since it began: each that was sent again had come already, as the receiver
    /// is given a moment to say.
    ///
    /// # Errors
    /// When some were lost, or it has ended or not moved.
    pub async fn whole(&mut self) -> Result<(), LabError> {
        let (lab, from, begun) = (self.lab, self.from, self.begun);
        if !matches!(self.sender.try_wait(), Ok(None)) {
            return Err(LabError::Answer { of: "the stream".to_owned(), why: "it has ended".to_owned() });
        }
        let whole = || async move {
            let now = segments(lab, from).await.map_err(|error| error.to_string())?;
            match (now.sent > begun.sent, now.lost.saturating_sub(begun.lost)) {
                (false, _) => Err("it stands still".to_owned()),
                (true, 0) => Ok(()),
                (true, lost) => Err(format!("{lost} segments were lost")),
            }
        };
        eventually(SAY, whole).await.map_err(|late| LabError::Late { what: "the stream".to_owned(), late })
    }
}

async fn segments(lab: &Lab, pod: &PodInfo) -> Result<Segments, LabError> {
    let said = lab.pod_run(pod, &["cat", "/proc/net/snmp", "/proc/net/netstat"]).await?;
    let of = |group: &str, name: &str| {
        let mut lines = said.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let found = names.split(' ').zip(values.split(' ')).find(|(one, _)| *one == name);
        let number = found.and_then(|(_, value)| value.parse::<u64>().ok());
        number.ok_or_else(|| LabError::Answer { of: "/proc/net/snmp".to_owned(), why: format!("no {name}") })
    };
    let lost = of("Tcp", "RetransSegs")?.saturating_sub(of("TcpExt", "TCPDSACKRecvSegs")?);
    Ok(Segments { sent: of("Tcp", "OutSegs")?, lost })
}
