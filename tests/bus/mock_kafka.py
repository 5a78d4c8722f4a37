"""librdkafka's mock cluster, made and ordered about through ctypes: it is in every wheel of confluent-kafka.

What it is not: it keeps only the last 5 MiB of a partition, and does not drop what an idempotent producer
sends twice. It is written in librdkafka's rdkafka_mock.h.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka

# The numbers of requests in Kafka's protocol.
PRODUCE, LIST_OFFSETS = 0, 2


class MockKafka:
    """A cluster that lives until ``close``. Raises OSError where the wheel has no library."""

    def __init__(self, brokers: int = 1) -> None:
        folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
        found = sorted(folder.glob("librdkafka-*.so*"))
        if not found:
            raise OSError(f"no librdkafka in {folder}")
        self._lib = ctypes.CDLL(str(found[0]))
        for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
            getattr(self._lib, name).restype = ctypes.c_void_p
        self._lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        why = ctypes.create_string_buffer(512)
        conf = ctypes.c_void_p(self._lib.rd_kafka_conf_new())
        self._owner = ctypes.c_void_p(self._lib.rd_kafka_new(0, conf, why, ctypes.c_size_t(512)))
        self._cluster = ctypes.c_void_p(self._lib.rd_kafka_mock_cluster_new(self._owner, brokers))
        self._lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.servers: str = self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic."""
        self._order("topic_create", topic.encode(), partitions, 1)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Forget the messages of a partition before an offset."""
        self._order("partition_delete_records", topic.encode(), partition, ctypes.c_int64(before))

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Let a broker, of which the first is 1, have a partition."""
        self._order("partition_set_leader", topic.encode(), partition, broker)

    def slow_down(self, broker: int, answer_ms: int) -> None:
        """Let a broker take so long for each answer."""
        self._order("broker_set_rtt", broker, answer_ms)

    def set_down(self) -> None:
        """Let the broker be away: it takes no connection."""
        self._order("broker_set_down", 1)

    def set_up(self) -> None:
        """Let it be back."""
        self._order("broker_set_up", 1)

    def fail(self, request: int, *codes: int) -> None:
        """Answer the next requests of a kind with these error codes."""
        errors = (ctypes.c_int * len(codes))(*codes)
        self._lib.rd_kafka_mock_push_request_errors_array.restype = None
        self._lib.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(codes)), errors
        )

    def close(self) -> None:
        """End the cluster."""
        self._lib.rd_kafka_mock_cluster_destroy.restype = None
        self._lib.rd_kafka_mock_cluster_destroy(self._cluster)
        self._lib.rd_kafka_destroy.restype = None
        self._lib.rd_kafka_destroy(self._owner)

    def _order(self, name: str, *arguments: object) -> None:
        error = getattr(self._lib, f"rd_kafka_mock_{name}")(self._cluster, *arguments)
        assert error == 0, f"{name}: error {error}"
