"""ISO 4217 currencies in use for payments, with their number of decimals. Django-free."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

_NONE: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_TWO: Final = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP "
    "CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR "
    "JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN "
    "NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP "
    "SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
)
_THREE: Final = "BHD IQD JOD KWD LYD OMR TND"

DECIMALS: Final = {code: places for places, codes in ((0, _NONE), (2, _TWO), (3, _THREE)) for code in codes.split()}
"""By code."""
CODES: Final = tuple(sorted(DECIMALS))


def decimals(currency: str) -> int:
    """Two for an unknown code, because values may be shown before they are checked."""
    return DECIMALS.get(currency, 2)


def smallest(currency: str) -> Decimal:
    """A cent, or the currency's equivalent."""
    return Decimal(1).scaleb(-decimals(currency))
