"""Makes a feature repository in the working directory: two customers, the second of whom lacks a score."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float32, Int64, String
from feast.value_type import ValueType

CONFIG = """\
project: shop
provider: local
registry: registry.db
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""

if __name__ == "__main__":
    Path("feature_store.yaml").write_text(CONFIG)
    now = datetime.now(UTC)
    rows = pd.DataFrame(
        {"customer": ["ada", "bob"], "age": [36, 7], "score": [0.5, None], "at": [now - timedelta(minutes=5), now]}
    )
    rows.to_parquet("customers.parquet")
    customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.STRING)
    view = FeatureView(
        name="customers",
        entities=[customer],
        ttl=timedelta(days=1),
        schema=[
            Field(name="customer", dtype=String),
            Field(name="age", dtype=Int64),
            Field(name="score", dtype=Float32),
        ],
        source=FileSource(path="customers.parquet", timestamp_field="at"),
    )
    store = FeatureStore(".")
    store.apply([customer, view, FeatureService(name="customers_v1", features=[view])])
    store.write_to_online_store("customers", rows)
