//! `manxctl bgp refresh | reset | drain | undrain`: what an operator has this node's speaker do.

use std::path::Path;

use anyhow::{Context, bail};
use manx_bgp::api::{AfterDrain, Direction, DrainPhase, DrainStatus, Request, Session, SessionState, Status};
use manx_bgp::types::ScopedAddr;
use manx_felix::speaker;
use serde::Serialize;

use super::bgp::{peer, title};
use super::table::{or_dash, table};

/// What came of it with one peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub address: ScopedAddr,
    pub name: String,
    /// Whether it was done.
    pub done: bool,
    /// What was done, or why nothing was.
    pub message: String,
}

impl Outcome {
    fn of(session: &Session, result: Result<&str, String>) -> Self {
        let (done, message) = match result {
            Ok(what) => (true, what.to_owned()),
            Err(why) => (false, why),
        };
        Self { address: session.address, name: session.name.clone(), done, message }
    }
}

/// Has one peer's routes said again, or those of all that are up.
pub async fn refresh(
    socket: &Path,
    wanted: Option<&str>,
    direction: Direction,
) -> anyhow::Result<Vec<Outcome>> {
    let what = match direction {
        Direction::In => "asked for all its routes",
        Direction::Out => "told all our routes again",
    };
    let ask = |session: &Session| {
        let address = session.address;
        async move { speaker::tell(socket, Request::Refresh { peer: address, direction }).await }
    };
    if let Some(wanted) = wanted {
        let session = peer(socket, wanted).await?;
        ask(&session).await?;
        return Ok(vec![Outcome::of(&session, Ok(what))]);
    }
    let mut outcomes = Vec::new();
    for session in speaker::status(socket).await?.sessions {
        let result = match session.state {
            SessionState::Established => {
                ask(&session).await.map(|()| what).map_err(|error| error.to_string())
            }
            state => Err(format!("its session is {state}")),
        };
        outcomes.push(Outcome::of(&session, result));
    }
    if !outcomes.iter().any(|outcome| outcome.done) {
        bail!("no peer could be refreshed: {}", failures(&outcomes));
    }
    Ok(outcomes)
}

fn failures(outcomes: &[Outcome]) -> String {
    if outcomes.is_empty() {
        return "none is configured".to_owned();
    }
    let words = outcomes.iter().map(|outcome| format!("{}: {}", outcome.address, outcome.message));
    words.collect::<Vec<_>>().join("; ")
}

/// Ends one peer's session; it begins anew at once.
pub async fn reset(socket: &Path, wanted: &str, reason: String) -> anyhow::Result<Vec<Outcome>> {
    let session = peer(socket, wanted).await?;
    speaker::tell(socket, Request::Reset { peer: session.address, reason }).await?;
    Ok(vec![Outcome::of(&session, Ok("session reset; it begins anew"))])
}

/// One line a peer.
pub fn render(outcomes: &[Outcome]) -> String {
    table(
        ["NEIGHBOUR", "NAME", "RESULT"],
        outcomes.iter().map(|outcome| {
            let result = match outcome.done {
                true => outcome.message.clone(),
                false => format!("nothing done: {}", outcome.message),
            };
            [outcome.address.to_string(), or_dash(outcome.name.clone()), result]
        }),
    )
}

/// Who is drained, and how far that has come.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drained {
    /// Of one peer; none: of all.
    pub peer: Option<ScopedAddr>,
    /// None: it is over.
    pub drain: Option<DrainStatus>,
    /// In words.
    #[serde(skip)]
    who: String,
}

/// Begins a drain of one peer or of all.
pub async fn drain(
    socket: &Path,
    wanted: Option<&str>,
    wait: u32,
    then: AfterDrain,
    reason: String,
) -> anyhow::Result<Drained> {
    let session = one(socket, wanted).await?;
    let address = session.as_ref().map(|session| session.address);
    speaker::tell(socket, Request::Drain { peer: address, wait, then, reason }).await?;
    let drained = drained(&speaker::status(socket).await?, session.as_ref());
    drained.drain.as_ref().context("somebody else has taken the drain back")?;
    Ok(drained)
}

/// Takes the drain of one peer, or all there is, back.
pub async fn undrain(socket: &Path, wanted: Option<&str>) -> anyhow::Result<Drained> {
    let session = one(socket, wanted).await?;
    let address = session.as_ref().map(|session| session.address);
    speaker::tell(socket, Request::Undrain { peer: address }).await?;
    Ok(drained(&speaker::status(socket).await?, session.as_ref()))
}

async fn one(socket: &Path, wanted: Option<&str>) -> anyhow::Result<Option<Session>> {
    match wanted {
        Some(wanted) => Ok(Some(peer(socket, wanted).await?)),
        None => Ok(None),
    }
}

fn drained(status: &Status, session: Option<&Session>) -> Drained {
    let Some(session) = session else {
        return Drained { peer: None, drain: status.drain.clone(), who: "all peers".to_owned() };
    };
    let now = status.sessions.iter().find(|other| other.address == session.address);
    Drained {
        peer: Some(session.address),
        drain: now.and_then(|session| session.drain.clone()),
        who: title(session),
    }
}

/// What happens now, what comes next, and how it is taken back.
pub fn render_drained(drained: &Drained) -> String {
    let Drained { peer, drain, who } = drained;
    let Some(drain) = drain else { return format!("{who}: not drained; our routes are told as they are\n") };
    let back = peer.map(|peer| format!(" {peer}")).unwrap_or_default();
    let back = format!("`manxctl bgp undrain{back}` takes it back.");
    match drain.phase {
        DrainPhase::Announced => {
            let then = match drain.then {
                AfterDrain::Withdraw => "all routes are withdrawn",
                AfterDrain::Shutdown => "the sessions end",
            };
            let left = drain.seconds_left.unwrap_or_default();
            format!(
                "{who}: told that our routes are going to end (GRACEFUL_SHUTDOWN); in {left}s {then}. {back}\n"
            )
        }
        DrainPhase::Withdrawn => format!("{who}: all our routes are withdrawn. {back}\n"),
        DrainPhase::Shutdown => format!("{who}: shut down. {back}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::tests::session;

    #[test]
    fn outcomes_say_what_was_done_and_what_not() {
        let up = session("10.0.0.1", "tor1", SessionState::Established, None);
        let down = session("10.0.0.2", "", SessionState::Active, None);
        let outcomes = [
            Outcome::of(&up, Ok("asked for all its routes")),
            Outcome::of(&down, Err("its session is Active".to_owned())),
        ];
        assert_eq!(
            render(&outcomes),
            "NEIGHBOUR   NAME   RESULT\n\
             10.0.0.1    tor1   asked for all its routes\n\
             10.0.0.2    -      nothing done: its session is Active\n"
        );
        assert_eq!(failures(&outcomes[1..]), "10.0.0.2: its session is Active");
    }

    #[test]
    fn a_drain_says_what_comes_and_how_it_is_taken_back() {
        let drain = |phase, seconds_left| {
            let then = AfterDrain::Shutdown;
            Some(DrainStatus { phase, then, seconds_left, reason: "new kernel".to_owned() })
        };
        let all = |drain| Drained { peer: None, drain, who: "all peers".to_owned() };
        assert_eq!(
            render_drained(&all(drain(DrainPhase::Announced, Some(60)))),
            "all peers: told that our routes are going to end (GRACEFUL_SHUTDOWN); in 60s the sessions end. \
             `manxctl bgp undrain` takes it back.\n"
        );
        let one =
            Drained { peer: Some("10.0.0.1".parse().unwrap()), ..all(drain(DrainPhase::Shutdown, None)) };
        assert_eq!(
            render_drained(&one),
            "all peers: shut down. `manxctl bgp undrain 10.0.0.1` takes it back.\n"
        );
        assert!(render_drained(&all(None)).contains("not drained"));
    }
}
