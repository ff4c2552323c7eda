# Stands in for the SlicerConfig.cmake of a Slicer build where there is none, so that the extension can be configured,
# built and installed by a test: cmake -DSlicer_DIR=<this folder>. See Testing/Harness/README.md.
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/GenerateConfig.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/CPack.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "lib/Slicer-5.12/qt-scripted-modules")
set(Slicer_CLIMODULES_BIN_DIR "lib/Slicer-5.12/cli-modules")
