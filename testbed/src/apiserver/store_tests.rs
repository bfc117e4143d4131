use proptest::prelude::*;
use serde_json::json;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Create(u8, u8),
    Replace(u8, u8),
    Delete(u8, u8),
    Compact(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let place = || (0..2u8, 0..6u8);
    prop_oneof![
        4 => place().prop_map(|(kind, name)| Operation::Create(kind, name)),
        4 => place().prop_map(|(kind, name)| Operation::Replace(kind, name)),
        3 => place().prop_map(|(kind, name)| Operation::Delete(kind, name)),
        1 => (0..200u64).prop_map(Operation::Compact),
    ]
}

fn kind(number: u8) -> Kind {
    Kind::new("", ["pods", "nodes"][usize::from(number)])
}

fn key(number: u8) -> Key {
    Key::new(["a", "b"][usize::from(number % 2)], number.to_string())
}

/// Objects of a kind by key, as a list of the model.
type Model = BTreeMap<Key, Value>;

fn values(objects: &BTreeMap<Key, Arc<Value>>) -> Model {
    objects.iter().map(|(key, object)| (key.clone(), (**object).clone())).collect()
}

fn replay(mut objects: Model, changes: &[Arc<Change>]) -> Model {
    for change in changes {
        match change.action {
            Action::Added => assert!(objects.insert(change.key.clone(), (*change.object).clone()).is_none()),
            Action::Modified => {
                assert!(objects.insert(change.key.clone(), (*change.object).clone()).is_some())
            }
            Action::Deleted => assert!(objects.remove(&change.key).is_some()),
        }
    }
    objects
}

proptest! {
    /// Against a model that keeps every state there ever was: each state that is not compacted can be read again,
    /// and the changes after it lead from it to the last.
    #[test]
    fn every_past_is_remembered_until_it_is_compacted(
        operations in prop::collection::vec(operation(), 1..80),
        history in 1..50usize,
    ) {
        let mut store = Store::new(history);
        let mut model = [Model::new(), Model::new()];
        let mut states = BTreeMap::from([(store.revision(), model.clone())]);
        let mut compacted = 0;
        for (tick, operation) in operations.into_iter().enumerate() {
            let object = json!({"metadata": {"name": "x"}, "tick": tick});
            match operation {
                Operation::Create(k, n) => {
                    let known = model[usize::from(k)].contains_key(&key(n));
                    let made = store.create(&kind(k), key(n), object);
                    prop_assert_eq!(made.is_err(), known);
                    if let Ok(change) = made {
                        model[usize::from(k)].insert(key(n), (*change.object).clone());
                    }
                }
                Operation::Replace(k, n) => {
                    let before = store.revision();
                    match store.replace(&kind(k), &key(n), object) {
                        Ok(change) => {
                            let old = model[usize::from(k)].insert(key(n), (*change.object).clone());
                            prop_assert_eq!(old.as_ref(), change.previous.as_deref());
                        }
                        Err(error) => {
                            prop_assert_eq!(error, StoreError::Missing);
                            prop_assert!(!model[usize::from(k)].contains_key(&key(n)));
                            prop_assert_eq!(store.revision(), before);
                        }
                    }
                }
                Operation::Delete(k, n) => {
                    let known = model[usize::from(k)].remove(&key(n)).is_some();
                    prop_assert_eq!(store.delete(&kind(k), &key(n)).is_ok(), known);
                }
                Operation::Compact(revision) => {
                    store.compact(revision);
                    compacted = compacted.max(revision.min(store.revision()));
                }
            }
            states.insert(store.revision(), model.clone());
        }
        for (revision, state) in &states {
            for k in 0..2u8 {
                let wanted = &state[usize::from(k)];
                match store.at(&kind(k), *revision) {
                    Ok(found) => {
                        prop_assert!(*revision >= compacted);
                        prop_assert_eq!(&values(&found), wanted);
                        let changes = store.changes_since(&kind(k), *revision).expect("as old as the list");
                        prop_assert_eq!(replay(wanted.clone(), &changes), model[usize::from(k)].clone());
                    }
                    Err(error) => {
                        prop_assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
                        let kept = states.range(revision..).count() - 1;
                        prop_assert!(*revision < compacted || kept > history, "forgotten too early: {revision}");
                    }
                }
            }
        }
        let listed: Vec<_> = store.list(&kind(0), Some("b")).map(|(key, _)| key.clone()).collect();
        let wanted: Vec<_> = model[0].keys().filter(|key| key.namespace == "b").cloned().collect();
        prop_assert_eq!(listed, wanted);
    }
}

#[test]
fn the_future_and_the_forgotten_are_told_apart() {
    let mut store = Store::new(2);
    for n in 0..5 {
        store.create(&kind(0), key(n), json!({"metadata": {}})).expect("new");
    }
    assert_eq!(
        store.changes_since(&kind(0), 9).expect_err("future"),
        StoreError::Future { asked: 9, current: 6 }
    );
    assert_eq!(
        store.changes_since(&kind(0), 3).expect_err("gone"),
        StoreError::Compacted { asked: 3, oldest: 4 }
    );
    assert_eq!(store.changes_since(&kind(0), 4).map(|changes| changes.len()), Ok(2));
}
