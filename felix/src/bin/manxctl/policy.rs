//! What this node's packet filter holds, has counted, and denies.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail};
use manx_cni::protocol::{Reply, Request, VERSION, read_frame, write_frame};
use manx_felix::acl::denied::{Denial, Denied};
use manx_felix::acl::nft::Counter;
use manx_felix::acl::question::{Answer, Counted, Question};
use manx_felix::acl::ruleset::Direction;

use super::table::{list, or_dash, table};

/// Hands each part of the answer to `take`, until that says that it is enough.
fn ask(
    socket: &Path,
    question: &Question,
    mut take: impl FnMut(Answer) -> anyhow::Result<Go>,
) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("the agent is not running: cannot connect to {}", socket.display()))?;
    let question = serde_json::to_value(question)?;
    write_frame(&mut stream, &Request::Policy { version: VERSION, question }).context("lost the agent")?;
    while let Some(reply) = read_frame(&mut stream).context("lost the agent")? {
        let answer = match reply {
            Reply::Policy { answer } => serde_json::from_value(answer)
                .context("the agent's answer cannot be read: is manxctl of its version?")?,
            Reply::Error { message, details, .. } => bail!("{message}: {details}"),
            reply => bail!("the agent answered out of turn: {reply:?}"),
        };
        if let Answer::Failed { reason } = answer {
            bail!("{reason}");
        }
        if take(answer)? == Go::Enough {
            break;
        }
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Go {
    On,
    Enough,
}

/// Whether who reads what we print (head, less) has seen enough.
fn print(text: &str) -> anyhow::Result<Go> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Go::Enough),
        written => Ok(written.map(|()| Go::On)?),
    }
}

/// Prints the table as `nft list` would.
pub fn dump(socket: &Path, elements: bool) -> anyhow::Result<()> {
    ask(socket, &Question::Dump { elements }, |answer| match answer {
        Answer::Text { text } => print(&text),
        _ => Ok(Go::On),
    })
}

/// Every policy's counters, those with most packets first.
pub fn top(socket: &Path) -> anyhow::Result<Vec<Counted>> {
    let mut all = Vec::new();
    ask(socket, &Question::Counters, |answer| {
        if let Answer::Counters { counted } = answer {
            all.extend(counted);
        }
        Ok(Go::On)
    })?;
    let packets = |counted: &Counted| {
        counted.accepted.packets + counted.denied.packets + counted.audited.packets + counted.passed.packets
    };
    all.sort_by_key(|counted| std::cmp::Reverse(packets(counted)));
    Ok(all)
}

/// A line a policy and direction.
pub fn render_top(all: &[Counted]) -> String {
    let number = |counter: Counter| match counter.packets {
        0 => "-".to_owned(),
        packets => format!("{packets} ({} B)", counter.bytes),
    };
    table(
        ["POLICY", "DIRECTION", "ACCEPTED", "DENIED", "AUDITED", "PASSED"],
        all.iter().map(|counted| {
            let (policy, direction) = match &counted.policy {
                Some(policy) => (policy.to_string(), policy.direction.to_string()),
                None => (format!("(no rule: chain {})", counted.chain), side(&counted.chain).to_string()),
            };
            let numbers = [counted.accepted, counted.denied, counted.audited, counted.passed].map(number);
            let [accepted, denied, audited, passed] = numbers;
            [policy, direction, accepted, denied, audited, passed]
        }),
    )
}

/// Of a chain that stands for pods.
fn side(chain: &str) -> Direction {
    if chain.starts_with("from/") { Direction::Egress } else { Direction::Ingress }
}

/// Prints denied packets, a line each.
pub fn flows(socket: &Path, follow: bool, json: bool) -> anyhow::Result<()> {
    if !json {
        print(&line(["TIME", "VERDICT", "FROM", "TO", "PROTOCOL", "BY"].map(str::to_owned)))?;
    }
    ask(socket, &Question::Denied { follow }, |answer| match answer {
        Answer::Denied { denial } if json => print(&(serde_json::to_string(&denial)? + "\n")),
        Answer::Denied { denial } => print(&line(row(&denial))),
        Answer::Missed { packets } => {
            eprintln!("manxctl: {packets} denied packets came too fast to be shown");
            Ok(Go::On)
        }
        _ => Ok(Go::On),
    })
}

/// Columns of a table whose end is not known.
fn line(columns: [String; 6]) -> String {
    let [time, verdict, from, to, protocol, by] = columns;
    format!("{time:<20}  {verdict:<7}  {from:<40}  {to:<40}  {protocol:<8}  {by}\n")
}

fn row(denial: &Denial) -> [String; 6] {
    let end = |address, port: Option<u16>, pod: &Option<String>| {
        let port = port.map(|port| format!(" {port}")).unwrap_or_default();
        let pod = pod.as_ref().map(|pod| format!(" ({pod})")).unwrap_or_default();
        format!("{address}{port}{pod}")
    };
    let protocol = match denial.protocol {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    };
    let direction = denial.direction.map(|direction| direction.to_string());
    let by = match (&denial.policy, denial.verdict) {
        (Some(policy), _) => {
            let rule = denial.rule.map(|rule| format!("[{rule}]")).unwrap_or_default();
            format!("{policy} spec.{}{rule}", or_dash(direction))
        }
        (None, Denied::Spoofed) => "not an address of the pod".to_owned(),
        (None, _) if denial.isolated_by.is_empty() => {
            format!("{}: nothing known of the pod", or_dash(direction))
        }
        (None, _) => format!("{}: no rule of {}", or_dash(direction), list(&denial.isolated_by)),
    };
    [
        format!("{:.0}", denial.time),
        denial.verdict.to_string(),
        end(denial.source, denial.source_port, &denial.source_pod),
        end(denial.destination, denial.destination_port, &denial.destination_pod),
        protocol,
        by,
    ]
}

#[cfg(test)]
mod tests {
    use manx_felix::acl::ruleset::{PolicyId, Tier};

    use super::*;

    #[test]
    fn what_was_counted_is_a_line_a_policy() {
        let policy = PolicyId { tier: Tier::Network, name: "shop/web".into(), direction: Direction::Ingress };
        let none = Counter::default();
        let accepted = Counter { packets: 3, bytes: 180 };
        let one = |policy, chain: &str| Counted {
            policy,
            chain: chain.to_owned(),
            accepted,
            denied: none,
            audited: none,
            passed: none,
        };
        insta::assert_snapshot!(render_top(&[
            one(Some(policy), "ingress/network/shop/web"),
            one(None, "from/77")
        ]));
    }

    #[test]
    fn a_denied_packet_is_a_line() {
        let policy = PolicyId { tier: Tier::Admin, name: "no-ssh".into(), direction: Direction::Egress };
        let mut denial = Denial {
            time: "2026-11-21T12:00:00Z".parse().unwrap(),
            verdict: Denied::Dropped,
            direction: Some(Direction::Egress),
            policy: Some(policy.clone()),
            rule: Some(1),
            isolated_by: vec![],
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            protocol: 6,
            source_port: Some(40_000),
            destination_port: Some(22),
            source_pod: Some("shop/web".to_owned()),
            destination_pod: None,
        };
        let mut lines = line(row(&denial));
        (denial.policy, denial.rule, denial.isolated_by) = (None, None, vec![policy]);
        lines += &line(row(&denial));
        (denial.direction, denial.verdict, denial.protocol) = (None, Denied::Spoofed, 89);
        lines += &line(row(&denial));
        insta::assert_snapshot!(lines);
    }
}
