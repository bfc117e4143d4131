//! Who does what one node alone shall do: election by a Lease (`coordination.k8s.io`). Pure; times are arguments.
//!
//! ```text
//!   unknown ─ Read ▶ another's, and it changes  ─ later ▶ Read …
//!               └──▶ another's, unchanged for its whole time; nobody's; ours ─ Take ▶ leads, for a part of that time
//! ```
//!
//! Whether a lease has run out is judged by how long this node has not seen it change, never by the times written in
//! it: clocks differ. A leader stops believing in itself before others may take the lease.

use std::time::{Duration, Instant};

/// How long a lease lasts that is not renewed.
pub const LASTS: Duration = Duration::from_secs(30);

/// How long a leader believes that it leads, from before it asked.
const BELIEVED: Duration = Duration::from_secs(20);

/// Between two looks at another's lease, and two renewals of one's own.
const PAUSE: Duration = Duration::from_secs(8);

/// What one node alone shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// To free the blocks of nodes that are gone.
    Collection,
    /// To give Services addresses.
    Services,
}

impl Duty {
    /// The name of its Lease.
    pub fn lease(self) -> &'static str {
        match self {
            Self::Collection => "manx-ipam-collection",
            Self::Services => "manx-service-addresses",
        }
    }
}

/// A Lease as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `spec.holderIdentity`.
    pub holder: String,
    /// `spec.leaseTransitions`.
    pub transitions: i32,
    /// `metadata.resourceVersion`: it changes with every renewal.
    pub version: String,
}

/// What to do with the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bid {
    /// See how it is.
    Read,
    /// Make it ours, if it is still of this version; none: create it.
    Take {
        /// Of the object as it was seen.
        version: Option<String>,
        /// To be written.
        transitions: i32,
    },
}

/// One candidate.
#[derive(Debug, Default)]
pub struct Election {
    me: String,
    /// The lease as last seen (none: there is none), and since when it is so.
    seen: Option<(Option<Record>, Instant)>,
    leads_until: Option<Instant>,
    asked: Option<Instant>,
    next: Option<Instant>,
}

impl Election {
    /// Of the candidate of this name.
    pub fn new(me: &str) -> Self {
        Self { me: me.to_owned(), ..Self::default() }
    }

    /// Whether this candidate leads.
    pub fn leads(&self, now: Instant) -> bool {
        self.leads_until(now).is_some()
    }

    /// How long this candidate may believe that it leads, if it does.
    pub fn leads_until(&self, now: Instant) -> Option<Instant> {
        self.leads_until.filter(|until| now < *until)
    }

    /// What to ask of the API now; answered by [`Election::answered`].
    #[must_use = "a bid not made is waited for"]
    pub fn bid(&mut self, now: Instant) -> Option<Bid> {
        if self.asked.is_some() || self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.asked = Some(now);
        Some(match &self.seen {
            None => Bid::Read,
            Some((None, _)) => Bid::Take { version: None, transitions: 0 },
            Some((Some(record), since)) => {
                let mine = record.holder == self.me;
                let over = record.holder.is_empty() || now.saturating_duration_since(*since) > LASTS;
                if mine || over {
                    let transitions = record.transitions + i32::from(!mine);
                    Bid::Take { version: Some(record.version.clone()), transitions }
                } else {
                    Bid::Read
                }
            }
        })
    }

    /// The API has answered a bid: how the lease is now (none: there is none). An error: it is not known, or another
    /// was faster.
    pub fn answered(&mut self, bid: &Bid, lease: Result<Option<Record>, ()>, now: Instant) {
        let asked = self.asked.take().unwrap_or(now);
        self.next = Some(now + PAUSE);
        let Ok(lease) = lease else {
            self.seen = None;
            return;
        };
        if lease.as_ref().is_some_and(|lease| lease.holder == self.me) && matches!(bid, Bid::Take { .. }) {
            self.leads_until = Some(asked + BELIEVED);
        } else {
            self.leads_until = None;
            // One's own from before a restart, or nobody's: taken at once.
            let free = lease.as_ref().is_none_or(|lease| lease.holder == self.me || lease.holder.is_empty());
            self.next = self.next.filter(|_| !free);
        }
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != lease) {
            self.seen = Some((lease, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The API's one Lease.
    #[derive(Default)]
    struct Api {
        lease: Option<Record>,
        writes: u64,
    }

    impl Api {
        fn answer(&mut self, bid: &Bid, who: &str) -> Result<Option<Record>, ()> {
            if let Bid::Take { version, transitions } = bid {
                if self.lease.as_ref().map(|lease| &lease.version) != version.as_ref() {
                    return Err(());
                }
                self.writes += 1;
                let (holder, version) = (who.to_owned(), self.writes.to_string());
                self.lease = Some(Record { holder, transitions: *transitions, version });
            }
            Ok(self.lease.clone())
        }
    }

    fn turn(election: &mut Election, api: &mut Api, now: Instant) {
        while let Some(bid) = election.bid(now) {
            let answer = api.answer(&bid, &election.me.clone());
            election.answered(&bid, answer, now);
        }
    }

    #[test]
    fn the_first_leads_and_the_second_follows_when_the_first_is_silent_for_the_leases_time() {
        let (mut a, mut b, mut api) = (Election::new("a"), Election::new("b"), Api::default());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        turn(&mut a, &mut api, at(0));
        turn(&mut b, &mut api, at(1));
        assert!(a.leads(at(1)) && !b.leads(at(1)));
        for second in 2..60 {
            turn(&mut a, &mut api, at(second));
            turn(&mut b, &mut api, at(second));
            assert!(a.leads(at(second)) && !b.leads(at(second)), "{second}");
        }
        for second in 60..130 {
            turn(&mut b, &mut api, at(second));
            assert!(!(a.leads(at(second)) && b.leads(at(second))), "two lead in second {second}");
        }
        assert!(b.leads(at(129)));
        assert_eq!(api.lease.unwrap().transitions, 1);
    }

    #[test]
    fn a_candidate_that_starts_again_takes_its_own_lease_at_once() {
        let mut api = Api::default();
        let now = Instant::now();
        turn(&mut Election::new("a"), &mut api, now);
        let mut again = Election::new("a");
        turn(&mut again, &mut api, now);
        assert!(again.leads(now));
    }

    /// What the API has said to a bid, if it has.
    type Answer = Option<Result<Option<Record>, ()>>;

    proptest! {
        /// Candidates that ask, are answered late or never, crash and sleep: never do two lead at once.
        #[test]
        fn no_two_lead_at_once(steps in prop::collection::vec((0..3_usize, 0..6_u8, 0..12_u64), 1..300)) {
            let mut api = Api::default();
            let mut candidates: Vec<Election> = ["a", "b", "c"].map(Election::new).into();
            let mut waiting: [Option<(Bid, Answer)>; 3] = [None, None, None];
            let mut now = Instant::now();
            for (who, what, passes) in steps {
                now += Duration::from_secs(passes);
                let name = candidates[who].me.clone();
                match what {
                    0 | 1 if waiting[who].is_none() => {
                        waiting[who] = candidates[who].bid(now).map(|bid| (bid, None));
                    }
                    // The API acts.
                    2 => if let Some((bid, answer @ None)) = &mut waiting[who] {
                        *answer = Some(api.answer(bid, &name));
                    },
                    // The answer arrives, or is lost.
                    3 | 4 => if let Some((bid, answer)) = waiting[who].take() {
                        let answer = answer.filter(|_| what == 3).unwrap_or(Err(()));
                        candidates[who].answered(&bid, answer, now);
                    },
                    5 if passes == 0 => {
                        candidates[who] = Election::new(&name);
                        waiting[who] = None;
                    }
                    _ => {}
                }
                let leading = candidates.iter().filter(|candidate| candidate.leads(now)).count();
                prop_assert!(leading <= 1);
            }
        }
    }
}
