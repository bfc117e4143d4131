//! Get and list.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    convert,
    error::ApiError,
    request::{Query, View},
    resource::Resource,
    selector::{FieldSelector, LabelSelector},
    store::{Key, Store, StoreError},
    table::{self, Heading},
};

/// The selectors of a request.
///
/// # Errors
/// 400 for what cannot be read.
pub(super) fn selectors(
    query: &Query,
    resource: &Resource,
) -> Result<(LabelSelector, FieldSelector), ApiError> {
    let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?;
    let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default(), resource)?;
    Ok((labels, fields))
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Arc<Value>>,
    revision: u64,
    next: Option<String>,
    remaining: Option<usize>,
}

impl Page {
    pub(super) fn whole(items: Vec<Arc<Value>>, revision: u64) -> Self {
        Self { items, revision, next: None, remaining: None }
    }

    /// Reads what the query asks for, of one namespace or of all.
    pub(super) fn read(
        store: &Store,
        resource: &Resource,
        namespace: Option<&str>,
        query: &Query,
    ) -> Result<Self, ApiError> {
        let (labels, fields) = selectors(query, resource)?;
        let kind = resource.store_kind();
        let limit = query.number("limit")?.filter(|limit| *limit > 0);
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let token = query.get("continue").map(Token::parse).transpose()?;
        let asked = query.number("resourceVersion")?.filter(|revision| *revision > 0);
        if let Some(asked) = asked.filter(|asked| *asked > store.revision()) {
            return Err(ApiError::too_large_revision(asked, store.revision()));
        }
        let exact = asked.filter(|_| query.get("resourceVersionMatch") == Some("Exact"));
        let pinned = token.as_ref().map(|token| token.revision).or(exact);

        let past = pinned.map(|revision| store.at(&kind, revision)).transpose().map_err(too_old)?;
        let objects: Box<dyn Iterator<Item = (&Key, &Arc<Value>)>> = match &past {
            Some(past) => Box::new(past.iter()),
            None => Box::new(store.list(&kind, namespace)),
        };
        let mut matching = objects
            .filter(|(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace))
            .filter(|(key, _)| token.as_ref().is_none_or(|token| **key > token.after))
            .filter(|(_, object)| {
                let object = convert::to_version(object, resource);
                labels.matches(&object) && fields.matches(&object)
            });
        let page: Vec<_> = matching.by_ref().take(limit).collect();
        let revision = pinned.unwrap_or(store.revision());
        let remaining = matching.count();
        let next = page.last().filter(|_| remaining > 0).map(|(key, _)| Token::write(revision, key));
        let selected = query.get("labelSelector").is_some() || query.get("fieldSelector").is_some();
        Ok(Self {
            items: page.into_iter().map(|(_, object)| object.clone()).collect(),
            revision,
            remaining: next.as_ref().filter(|_| !selected).map(|_| remaining),
            next,
        })
    }

    /// The list object.
    pub(super) fn render(&self, resource: &Resource, view: View) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if let Some(next) = &self.next {
            metadata["continue"] = json!(next);
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        let objects: Vec<_> = self.items.iter().map(|object| convert::to_version(object, resource)).collect();
        let objects = objects.iter().map(AsRef::as_ref);
        match view {
            View::Table(include) => {
                table::render(&resource.columns, objects, metadata, include, Heading::With)
            }
            View::Partial => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "items": objects.map(table::partial).collect::<Vec<_>>(),
            }),
            View::Object => json!({
                "kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": metadata,
                "items": objects.collect::<Vec<_>>(),
            }),
        }
    }
}

/// One object, as the client wants it.
pub(super) fn render_one(resource: &Resource, object: &Arc<Value>, view: View) -> Value {
    let object = convert::to_version(object, resource);
    match view {
        View::Object => object.into_owned(),
        View::Partial => table::partial(&object),
        View::Table(include) => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            table::render(&resource.columns, std::iter::once(&*object), metadata, include, Heading::With)
        }
    }
}

fn too_old(error: StoreError) -> ApiError {
    match error {
        StoreError::Future { asked, current } => ApiError::too_large_revision(asked, current),
        _ => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. \
             You can start a new list without the continue parameter.",
        ),
    }
}

/// Where the next page starts: `REVISION/NAMESPACE/NAME` of the last object given. Opaque to clients.
struct Token {
    revision: u64,
    after: Key,
}

impl Token {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let mut parts = text.splitn(3, '/');
        let revision = parts.next().and_then(|revision| revision.parse().ok());
        match (revision, parts.next(), parts.next()) {
            (Some(revision), Some(namespace), Some(name)) => {
                Ok(Self { revision, after: Key::new(namespace, name) })
            }
            _ => Err(ApiError::bad_request(format!("continue key is not valid: {text:?}"))),
        }
    }

    fn write(revision: u64, key: &Key) -> String {
        format!("{revision}/{}/{}", key.namespace, key.name)
    }
}
