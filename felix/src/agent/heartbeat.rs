//! When a node says of itself anew how it is: at once where that matters, and spread over a cluster so large that all of
//! its nodes saying something at once would be felt by the API server.

use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::crd::NodeStatusStatus;

/// What has been said is said again after this, whether or not anything has changed: nobody watches it, and it may have
/// been deleted.
const REPEAT: Duration = Duration::from_secs(600);

/// Between two writes for numbers alone.
const NUMBERS: Duration = Duration::from_secs(300);

/// Between two writes of whatever kind.
const PAUSE: Duration = Duration::from_secs(5);

/// Nodes whose writes the API server takes in a second.
const NODES_A_SECOND: usize = 100;

/// What was written, and when.
#[derive(Debug, Default)]
pub struct Heartbeat {
    written: Option<(NodeStatusStatus, Instant)>,
    /// Since when something that matters has been another, or nothing is known to be there.
    differs: Option<Instant>,
}

impl Heartbeat {
    /// Whether `status` is to be written now, by a node that has this `share` (0 to 1) of whatever is spread, of so many.
    pub fn is_due(&mut self, status: &NodeStatusStatus, nodes: usize, share: f64, now: Instant) -> bool {
        if let Some((written, at)) = &self.written {
            let since = now.saturating_duration_since(*at);
            // These are spread by who says them.
            if written.policies != status.policies {
                return true;
            }
            if is_same(written, status) {
                self.differs = None;
                // Writes that were spread stay so.
                return since >= if written == status { REPEAT } else { NUMBERS };
            }
            if since < PAUSE {
                return false;
            }
        }
        let window = Duration::from_secs((nodes / NODES_A_SECOND).try_into().unwrap_or(u64::MAX));
        let differs = *self.differs.get_or_insert(now);
        now.saturating_duration_since(differs) >= window.mul_f64(share)
    }

    /// The conditions written last.
    pub fn conditions(&self) -> &[Condition] {
        self.written.as_ref().map_or(&[], |(status, _)| &status.conditions)
    }

    /// It has been written.
    pub fn wrote(&mut self, status: NodeStatusStatus, now: Instant) {
        *self = Self { written: Some((status, now)), differs: None };
    }

    /// What was written may be gone.
    pub fn doubt(&mut self) {
        *self = Self::default();
    }
}

/// In all but what changes with every pod and every route.
fn is_same(one: &NodeStatusStatus, other: &NodeStatusStatus) -> bool {
    let NodeStatusStatus {
        session_summary,
        sessions,
        blocks,
        routes: _,
        pods: _,
        version,
        problems,
        conditions,
        policies: _,
    } = one;
    (session_summary, sessions, blocks, version, problems, conditions)
        == (
            &other.session_summary,
            &other.sessions,
            &other.blocks,
            &other.version,
            &other.problems,
            &other.conditions,
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(sessions: &str, routes: i64) -> NodeStatusStatus {
        NodeStatusStatus { session_summary: sessions.to_owned(), routes, ..NodeStatusStatus::default() }
    }

    #[test]
    fn a_change_that_matters_is_written_at_once_and_numbers_when_there_are_some() {
        let (mut heartbeat, start) = (Heartbeat::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(heartbeat.is_due(&status("1/1", 5), 3, 0.5, start));
        heartbeat.wrote(status("1/1", 5), start);
        assert!(!heartbeat.is_due(&status("0/1", 5), 3, 0.5, after(4)), "not one upon another");
        assert!(heartbeat.is_due(&status("0/1", 5), 3, 0.5, after(5)));
        assert!(!heartbeat.is_due(&status("1/1", 6), 3, 0.5, after(250)));
        assert!(heartbeat.is_due(&status("1/1", 6), 3, 0.5, after(300)));
        assert!(!heartbeat.is_due(&status("1/1", 5), 3, 0.5, after(500)));
        assert!(heartbeat.is_due(&status("1/1", 5), 3, 0.5, after(600)));
        heartbeat.doubt();
        assert!(heartbeat.is_due(&status("1/1", 5), 3, 0.5, after(1)));
    }

    /// An hour of 5,000 nodes whose routes change every second, and three times a session of each.
    #[test]
    fn five_thousand_nodes_write_a_bounded_number_of_times() {
        const NODES: usize = 5000;
        let start = Instant::now();
        let mut nodes: Vec<Heartbeat> = (0..NODES).map(|_| Heartbeat::default()).collect();
        let (mut total, mut worst) = (0, 0);
        for second in 0..3600_u32 {
            let now = start + Duration::from_secs(second.into());
            let sessions = ["3/3", "2/3", "3/3", "2/3"][second as usize / 1000];
            let mut written = 0;
            for (index, node) in nodes.iter_mut().enumerate() {
                #[expect(clippy::cast_precision_loss, reason = "a share of few nodes")]
                let share = index as f64 / NODES as f64;
                let status = status(sessions, second.into());
                if node.is_due(&status, NODES, share, now) {
                    node.wrote(status, now);
                    written += 1;
                }
            }
            total += written;
            worst = worst.max(written);
        }
        assert!(worst <= 2 * NODES_A_SECOND, "{worst} in a second");
        assert!(total <= 5000 * 20, "{total} in an hour: {} a second", total / 3600);
    }
}
