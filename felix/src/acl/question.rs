//! What `manxctl` asks of the packet filter, and how it is answered: part by part, so that no answer is larger than a
//! frame.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::compile;
use super::denied::Denial;
use super::driver::Driver;
use super::nft::Counter;
use super::ruleset::PolicyId;

/// Octets of text, and numbers, in one answer.
const TEXT: usize = 32 * 1024;
const NUMBERS: usize = 256;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Question {
    /// The table as it is wanted.
    Dump {
        /// Whether sets are told with what they hold.
        elements: bool,
    },
    /// What each policy has counted.
    Counters,
    /// Packets denied lately.
    Denied {
        /// And then all that are, as they are.
        follow: bool,
    },
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Answer {
    /// Some of the table's text.
    Text {
        /// Whole lines.
        text: String,
    },
    /// Some policies' numbers.
    Counters {
        /// One a policy and direction.
        counted: Vec<Counted>,
    },
    /// A packet that was denied.
    Denied {
        /// Which.
        denial: Denial,
    },
    /// Some denied packets were not told, for they came too fast.
    Missed {
        /// How many.
        packets: u64,
    },
    /// It cannot be answered.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What a policy has counted: packets that open connections, for others are not judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// One direction of a policy; none: the pods that no rule lets the packet through to, or that send it.
    pub policy: Option<PolicyId>,
    /// What is counted: the policy's chain, or that of the pods.
    pub chain: String,
    /// Let through.
    pub accepted: Counter,
    /// Dropped.
    pub denied: Counter,
    /// Not dropped, for the policy is in audit mode.
    pub audited: Counter,
    /// Left to the next tier.
    pub passed: Counter,
}

/// A question, and where its answers go.
pub type Asking = (Question, mpsc::Sender<Answer>);

/// Answers questions, each in a task of its own, until nobody can ask any more.
pub async fn serve(driver: Driver, mut questions: mpsc::Receiver<Asking>) {
    while let Some((question, answers)) = questions.recv().await {
        tokio::spawn(answer(driver.clone(), question, answers));
    }
}

/// Answers until all is told, or nobody takes any more.
async fn answer(driver: Driver, question: Question, answers: mpsc::Sender<Answer>) {
    // An error means that nobody takes any more: so ends each of these.
    let _ = match question {
        Question::Dump { elements } => dump(&driver, elements, &answers).await,
        Question::Counters => counters(&driver, &answers).await,
        Question::Denied { follow } => denied(&driver, follow, &answers).await,
    };
}

/// Nobody takes answers any more.
struct Gone;

async fn give(answers: &mpsc::Sender<Answer>, answer: Answer) -> Result<(), Gone> {
    answers.send(answer).await.map_err(|_| Gone)
}

async fn failed(answers: &mpsc::Sender<Answer>, reason: &str) -> Result<(), Gone> {
    give(answers, Answer::Failed { reason: reason.to_owned() }).await
}

async fn dump(driver: &Driver, elements: bool, answers: &mpsc::Sender<Answer>) -> Result<(), Gone> {
    let Some(table) = driver.dump(elements).await else {
        return failed(answers, "the packet filter is not kept any more").await;
    };
    let mut text = String::new();
    for line in table.lines() {
        if text.len() + line.len() > TEXT {
            give(answers, Answer::Text { text: std::mem::take(&mut text) }).await?;
        }
        text.push_str(line);
        text.push('\n');
    }
    give(answers, Answer::Text { text }).await
}

async fn counters(driver: &Driver, answers: &mpsc::Sender<Answer>) -> Result<(), Gone> {
    let (counters, policies) = match (driver.counters().await, driver.policies().await) {
        (Ok(counters), Some(policies)) => (counters, policies),
        (Err(reason), _) => return failed(answers, &reason).await,
        (Ok(_), None) => return failed(answers, "the packet filter is not kept any more").await,
    };
    let all = counted(&counters, policies);
    for some in all.chunks(NUMBERS) {
        give(answers, Answer::Counters { counted: some.to_vec() }).await?;
    }
    Ok(())
}

/// Puts together what the counters of each chain say.
fn counted(counters: &BTreeMap<String, Counter>, policies: Vec<PolicyId>) -> Vec<Counted> {
    let of: BTreeMap<String, PolicyId> =
        policies.into_iter().map(|policy| (compile::policy_name(&policy), policy)).collect();
    let mut all: BTreeMap<&str, Counted> = BTreeMap::new();
    for (name, counter) in counters {
        let Some((word, chain)) = name.split_once('/') else { continue };
        let counted = all.entry(chain).or_insert_with(|| Counted {
            policy: of.get(chain).cloned(),
            chain: chain.to_owned(),
            accepted: Counter::default(),
            denied: Counter::default(),
            audited: Counter::default(),
            passed: Counter::default(),
        });
        match word {
            "accept" => counted.accepted = *counter,
            "deny" => counted.denied = *counter,
            "audit" => counted.audited = *counter,
            "pass" => counted.passed = *counter,
            _ => {}
        }
    }
    all.into_values().collect()
}

async fn denied(driver: &Driver, follow: bool, answers: &mpsc::Sender<Answer>) -> Result<(), Gone> {
    // First of all, so that nothing falls between.
    let mut coming = driver.denials();
    let recent = driver.recent().await;
    for denial in &recent {
        give(answers, Answer::Denied { denial: Denial::clone(denial) }).await?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        let next = tokio::select! {
            next = coming.recv() => next,
            () = answers.closed() => return Err(Gone),
        };
        match next {
            Ok(denial) if recent.iter().any(|told| Arc::ptr_eq(told, &denial)) => {}
            Ok(denial) => give(answers, Answer::Denied { denial: Denial::clone(&denial) }).await?,
            Err(RecvError::Lagged(packets)) => give(answers, Answer::Missed { packets }).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ruleset::{Direction, Tier};
    use super::*;

    #[test]
    fn counters_are_put_together_by_policy() {
        let policy = PolicyId { tier: Tier::Network, name: "shop/web".into(), direction: Direction::Ingress };
        let one = |packets| Counter { packets, bytes: 100 * packets };
        let counters = [
            ("accept/ingress/network/shop/web", 3),
            ("audit/ingress/network/shop/web", 1),
            ("deny/to/0123", 7),
            ("spoofed", 9),
        ];
        let counters = counters.map(|(name, packets)| (name.to_owned(), one(packets))).into();
        let all = counted(&counters, vec![policy.clone()]);
        assert_eq!(all.len(), 2);
        assert_eq!((&all[0].policy, all[0].accepted, all[0].audited), (&Some(policy), one(3), one(1)));
        assert_eq!((&all[1].policy, &*all[1].chain, all[1].denied), (&None, "to/0123", one(7)));
    }
}
