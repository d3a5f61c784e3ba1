"""The room of bundles: container images, carried to a site without internet, every byte unchanged (decision D13).

Headquarters' side fetches, packs, patches and looks into registries; the site's side verifies, expands and syncs. What
the site's side is made of also goes into ``bundle.pyz`` and runs on Python 3.6: see ``field/``.
"""
