"""Amounts of money: the greatest one allowed, and the currencies, which are the codes of ISO 4217 without
funds, metals and test codes."""

from __future__ import annotations

from typing import Final

from wattribute.errors import UsageError, meant

_CODES: Final = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD
CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD
GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT
LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR
NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP
STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD
XOF XPF YER ZAR ZMW ZWG
"""
AMOUNT_MOST: Final = 1e9  # sums of such amounts are still finite
CURRENCIES: Final = frozenset(_CODES.split())


def check_amount(name: str, amount: float) -> None:
    """Raise UsageError if an amount cannot be a price. ``name`` is what the error calls it."""
    if not 0 <= amount <= AMOUNT_MOST:  # false for NaN too
        raise UsageError(f"the {name} is {amount:g}: it must be from 0 to {AMOUNT_MOST:,.0f}")


def check_currency(currency: str) -> None:
    """Raise UsageError for an unknown currency."""
    if currency not in CURRENCIES:
        known = sorted(CURRENCIES) if len(currency) in (3, 4) else ()  # US is near UZS too, dollars near ARS
        hint = meant(currency, known, "write its code, like USD or EUR")
        raise UsageError(f"currency {currency!r} is not known; {hint}")
